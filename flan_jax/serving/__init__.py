"""A model behind HTTP, for a look: `completions` reads requests and words answers, `desk` asks the model, `server` speaks HTTP."""
