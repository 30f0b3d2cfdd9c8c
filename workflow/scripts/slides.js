addEventListener("keydown", (event) => {
  const step = { ArrowRight: 1, ArrowDown: 1, PageDown: 1, " ": 1, ArrowLeft: -1, ArrowUp: -1, PageUp: -1 }[event.key];
  if (!step || event.target.closest("summary, pre")) return;
  const slides = [...document.querySelectorAll("section")];
  const now = slides.findIndex((slide) => slide.getBoundingClientRect().bottom > innerHeight / 2);
  slides[Math.min(Math.max(now + step, 0), slides.length - 1)].scrollIntoView();
  event.preventDefault();
});
