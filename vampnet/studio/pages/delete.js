// The delete link carries its secret behind the #, which is never sent to a server by itself: into the field with it.
(() => {
  "use strict";
  const field = document.getElementById("secret");
  if (field && location.hash.length > 1) {
    field.value = decodeURIComponent(location.hash.slice(1));
    history.replaceState(null, "", location.pathname + location.search);
  }
})();
