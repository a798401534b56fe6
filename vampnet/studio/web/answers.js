// No answer may be lost. Answers of Gradio's queue come in one stream, which the server closes when nothing is left to answer. If
// the browser reads of that only after a new question was taken (a slow line, a busy page), Gradio's client believes that the
// answer will come in the closed stream and waits for ever. The next question opens a stream, in which all come that is missing:
// so where answers are missing and no stream is open, an empty question is asked.
(() => {
  "use strict";
  const WAIT = 1000; // what is on its way may still come
  const missing = new Set(), early = new Set(), streams = new Set();
  const plain = window.fetch;

  function ask() {
    if (!missing.size || streams.size) return;
    missing.clear();
    document.querySelector("#answers")?.click();
  }

  // A question was taken; its answer may have been faster than this.
  function taken({ event_id: id }) {
    if (early.delete(id)) return;
    missing.add(id);
    setTimeout(ask, WAIT);
  }

  function answered(id) {
    if (!missing.delete(id)) early.add(id);
  }

  // The answers of a stream, until it ends or is given up.
  async function read(response) {
    const reader = response.body.getReader(), decoder = new TextDecoder();
    for (let rest = "", part = await reader.read(); !part.done; part = await reader.read()) {
      const messages = (rest + decoder.decode(part.value, { stream: true })).split("\n\n");
      rest = messages.pop();
      for (const message of messages) {
        const found = /^data: {"msg":"process_completed","event_id":"([^"]+)"/.exec(message);
        if (found) answered(found[1]);
      }
    }
  }

  window.fetch = (input, init) => {
    const response = plain(input, init);
    const { pathname } = new URL(input.url ?? input, location.href);
    if (pathname.endsWith("/queue/join")) {
      response.then((given) => given.ok && given.clone().json().then(taken)).catch(() => {});
    } else if (pathname.endsWith("/queue/data")) {
      const stream = {};
      const over = () => streams.delete(stream) && setTimeout(ask, WAIT);
      streams.add(stream);
      response.then((given) => read(given.clone())).catch(() => {}).finally(over);
    }
    return response;
  };
})();
