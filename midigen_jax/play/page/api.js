// What the page asks of its server. Whatever goes wrong is an Error whose message is for people.

async function ask(path, options) {
  let response;
  try {
    response = await fetch(path, options);
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new Error("midigen play does not answer: start it again, then load this page anew.");
  }
  if (response.ok) return response;
  const told = await response.json().catch(() => ({}));
  throw new Error(told.error ?? `Something went wrong (${response.status}); the terminal says more.`);
}

function asJson(body, signal) {
  return { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(body), signal };
}

export const model = async () => (await ask("/api/model")).json();
export const post = async (path, body) => (await ask(path, asJson(body))).json();
export const file = async (path, signal) => (await ask(path, { signal })).blob();

export async function drop(chosen) {
  const path = `/api/piece?name=${encodeURIComponent(chosen.name)}`;
  return (await ask(path, { method: "POST", body: chosen })).json();
}

// The lines of an answer, as they come; `signal` ends it, here and in the server.
export async function* lines(path, body, signal) {
  const response = await ask(path, asJson(body, signal));
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const parts = (rest + value).split("\n");
    rest = parts.pop();
    yield* parts.map((part) => JSON.parse(part));
  }
}
