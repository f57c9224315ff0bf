// Before anything is drawn: the theme that was chosen here, if one was; else the system's.
"use strict";
try {
  const chosen = localStorage.getItem("retort-theme");
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
} catch {
  // Storage is forbidden here: the system's theme it is.
}
