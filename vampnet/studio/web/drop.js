// A file that is dropped anywhere on the page is brought like one from the upload field. What came back with it is told.
(() => {
  "use strict";
  const studio = (window.VampStudio = window.VampStudio || {});

  function make(tag, className, text) {
    const element = document.createElement(tag);
    if (className) element.className = className;
    if (text) element.textContent = text;
    return element;
  }

  studio.dropping = (element, trigger, upload) => {
    const root = element.querySelector(".vs-drop");
    const cover = make("div", "vs-drop-cover");
    cover.setAttribute("aria-hidden", "true");
    cover.append(make("p", "", studio.say("drop.here")));
    const line = make("p", "vs-drop-line");
    line.setAttribute("role", "status");
    root.append(cover, line);

    const holdsFile = (event) => event.dataTransfer && [...event.dataTransfer.types].includes("Files");
    // Fields that take files by themselves go on doing so.
    const theirs = (event) => event.target instanceof Element && event.target.closest("#upload");
    const show = (on) => root.classList.toggle("vs-over", on);
    const say = (text, wrong = false) => {
      line.textContent = text;
      line.setAttribute("role", wrong ? "alert" : "status");
      line.classList.toggle("vs-wrong", wrong);
    };
    let leaving = 0;

    function over(event) {
      if (!holdsFile(event)) return;
      clearTimeout(leaving);
      show(!theirs(event));
      // While it is dragged there is one of these many times a second; when they end, the file has left the window.
      leaving = setTimeout(() => show(false), 400);
      if (theirs(event)) return;
      event.preventDefault();
      event.dataTransfer.dropEffect = "copy";
    }

    async function drop(event) {
      show(false);
      if (!holdsFile(event) || theirs(event)) return;
      event.preventDefault();
      const file = event.dataTransfer.files[0];
      if (!file) return;
      say(studio.say("drop.coming", { name: file.name }));
      try {
        const { path } = await upload(file);
        say("");
        trigger("upload", { path });
      } catch (error) {
        say(studio.say("drop.failed", { name: file.name }), true);
      }
    }

    const listen = (name, listener) =>
      window.addEventListener(name, function heard(event) {
        if (element.isConnected) listener(event);
        else window.removeEventListener(name, heard);
      });
    for (const name of ["dragenter", "dragover"]) listen(name, over);
    listen("drop", drop);
  };

  studio.restored = (element, props, watch, trigger) => {
    const root = element.querySelector(".vs-restored");
    root.setAttribute("role", "status");
    const show = () => {
      const told = props.value;
      root.replaceChildren();
      if (!told) return;
      root.append(make("span", "", told.sentence));
      if (told.itself) {
        const itself = make("button", "vs-link", studio.say("restore.itself"));
        itself.type = "button";
        itself.addEventListener("click", () => trigger("select", {}));
        root.append(itself);
      }
    };
    watch("value", show);
    show();
  };
})();
