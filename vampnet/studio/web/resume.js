// Who loads the page anew, or comes back to it, finds the clip and the takes again: each tab has a name of its own, which it keeps
// as long as it lives and tells the server.
(() => {
  "use strict";
  const studio = (window.VampStudio = window.VampStudio || {});
  const KEY = "vampnet-visit";
  const WAIT = 1000; // until the page that goes has let go

  // Whether this tab alone has the name: a tab that was duplicated brings that of the other. Kept until the page goes.
  async function own(name) {
    if (!navigator.locks) return true; // a page without https
    return new Promise((then) => {
      navigator.locks
        .request(`${KEY} ${name}`, { signal: AbortSignal.timeout(WAIT) }, () => (then(true), new Promise(() => {})))
        .catch(() => then(false));
    });
  }

  studio.visit = async () => {
    try {
      let name = sessionStorage.getItem(KEY);
      if (name && (await own(name))) return name;
      name = [...crypto.getRandomValues(new Uint8Array(16))].map((byte) => byte.toString(16).padStart(2, "0")).join("");
      sessionStorage.setItem(KEY, name);
      await own(name);
      return name;
    } catch {
      return ""; // a browser that keeps nothing
    }
  };
})();
