// The delete link carries its secret behind the #, which is never sent to a server by itself: into the field with it.
(() => {
  "use strict";
  const field = document.getElementById("secret");
  const take = () => {
    if (!field || location.hash.length < 2) return;
    field.value = decodeURIComponent(location.hash.slice(1));
    history.replaceState(null, "", location.pathname + location.search);
  };
  take();
  // The link was put into the address of a page that is open already.
  window.addEventListener("hashchange", take);
})();
