"use strict";
// Asks /v1/completions of the server that this page is from. What a model says becomes text nodes and nothing else.

const $ = (id) => document.getElementById(id);
let halted = null;

function element(tag, className, text) {
  const made = document.createElement(tag);
  if (className) made.className = className;
  if (text !== undefined) made.textContent = text;
  return made;
}

function asked() {
  const request = {
    prompt: $("prompt").value,
    max_tokens: Number($("max_tokens").value),
    temperature: Number($("temperature").value),
    top_p: Number($("top_p").value),
    n: Number($("n").value),
    stop: $("stop").value.split("\n").filter((line) => line !== ""),
  };
  if ($("seed").value !== "") request.seed = Number($("seed").value);
  if (request.n === 1) {
    request.stream = true;
    request.stream_options = {include_usage: true};
  }
  return request;
}

function hint() {
  const greedy = Number($("temperature").value) === 0;
  const several = Number($("n").value) > 1;
  $("hint").textContent = greedy
    ? several
      ? "With temperature 0 all answers would be the same: several need a temperature above 0."
      : "Temperature 0 takes the likeliest token at each step: the same answer every time."
    : "Drawn at random: the same seed and settings give the same answer again.";
}

function card(request) {
  const item = element("li", "card");
  item.append(element("p", "asked", request.prompt));
  const outputs = [];
  for (let at = 0; at < request.n; at++) {
    if (request.n > 1) item.append(element("p", "label", `Answer ${at + 1}`));
    const output = element("pre", "output");
    outputs.push(output);
    item.append(output);
  }
  const meta = element("p", "meta quiet", "waiting … the first answer takes longer, while its program is compiled");
  item.append(meta);
  $("said").hidden = false;
  $("answers").prepend(item);
  return {item, outputs, meta};
}

const ENDS = {stop: "stop: ended by itself or at a stop string", length: "length: cut at the token limit"};

function finish(shown, request, reasons, usage, seed, began) {
  const seconds = (performance.now() - began) / 1000;
  for (const output of shown.outputs) {
    if (output.textContent === "") output.append(element("span", "empty", "(no text)"));
  }
  const kinds = [...new Set(reasons)];
  const ended = kinds.map((reason) =>
    kinds.length > 1 ? `${reasons.filter((one) => one === reason).length} × ${ENDS[reason]}` : ENDS[reason]);
  const facts = [`${usage.completion_tokens} tokens (prompt ${usage.prompt_tokens})`, ended.join(", "), `${seconds.toFixed(2)} s`];
  shown.meta.replaceChildren(...facts.map((fact) => element("span", "", fact)));
  if (request.temperature > 0) {
    const again = element("button", "", `seed ${seed}: use again`);
    again.type = "button";
    again.addEventListener("click", () => { $("seed").value = seed; $("seed").focus(); });
    shown.meta.append(again);
  }
}

async function* events(body) {
  const reader = body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const {value, done} = await reader.read();
    if (done) return;
    buffer += value;
    for (let end; (end = buffer.indexOf("\n\n")) >= 0; buffer = buffer.slice(end + 2)) {
      const data = buffer.slice(0, end).replace(/^data: /, "");
      if (data !== "[DONE]") yield JSON.parse(data);
    }
  }
}

async function answer(request, shown, began) {
  const response = await fetch("/v1/completions", {
    method: "POST",
    headers: {"Content-Type": "application/json"},
    body: JSON.stringify(request),
    signal: halted.signal,
  });
  if (!response.ok) throw new Error((await response.json()).error.message);
  if (!request.stream) {
    const found = await response.json();
    for (const choice of found.choices) shown.outputs[choice.index].textContent = choice.text;
    finish(shown, request, found.choices.map((choice) => choice.finish_reason), found.usage, found.seed, began);
    return;
  }
  let reason = null, seed = null;
  for await (const event of events(response.body)) {
    if (event.error) throw new Error(event.error.message);
    for (const choice of event.choices) {
      shown.outputs[0].textContent += choice.text;
      reason = choice.finish_reason ?? reason;
      seed = event.seed;
    }
    if (event.usage) finish(shown, request, [reason], event.usage, seed, began);
  }
  if (reason === null) throw new Error("the answer broke off: the server has stopped, or met an error");
}

async function ask(event) {
  event.preventDefault();
  if (halted) return;
  $("error").hidden = true;
  const request = asked();
  const shown = card(request);
  const began = performance.now();
  halted = new AbortController();
  $("ask").disabled = true;
  $("halt").hidden = false;
  try {
    await answer(request, shown, began);
  } catch (error) {
    if (error.name === "AbortError") {
      shown.meta.textContent = "stopped here";
    } else {
      const told = error instanceof TypeError ? "The server cannot be reached." : error.message;
      if (shown.outputs.every((output) => output.textContent === "")) shown.item.remove();
      else shown.meta.textContent = "broken off";
      $("said").hidden = !$("answers").children.length;
      $("error").textContent = told;
      $("error").hidden = false;
    }
  } finally {
    halted = null;
    $("ask").disabled = false;
    $("halt").hidden = true;
  }
}

$("form").addEventListener("submit", ask);
$("halt").addEventListener("click", () => halted?.abort());
for (const id of ["temperature", "n"]) $(id).addEventListener("input", hint);
document.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    $("form").requestSubmit();
  }
});
fetch("/about").then((response) => response.json()).then((about) => {
  $("name").textContent = about.name;
  document.title = `${about.name} – flan_jax`;
  $("about").textContent = `${about.checkpoint} · prompts of up to ${about.inputs_length} tokens`;
  $("max_tokens").max = about.max_tokens;
  $("max_tokens").value = Math.min(64, about.max_tokens);
  $("n").max = about.max_answers;
});
