// Runs before the first paint: a chosen theme must not flash, and what needs a script shows only where there is one.
document.documentElement.classList.add("js");
try {
  const theme = localStorage.getItem("theme");
  if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
} catch {}
