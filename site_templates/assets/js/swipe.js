// A sideways swipe with one finger.

const FAR = 70;
const STEEP = 0.5;

/** Call `handler(1)` for a swipe to the left (next), `handler(-1)` for one to the right. */
export function onSwipe(element, handler) {
  let start = null;
  element.addEventListener("touchstart", (event) => (start = event.touches.length === 1 ? event.touches[0] : null), { passive: true });
  element.addEventListener(
    "touchend",
    (event) => {
      if (!start) return;
      const x = event.changedTouches[0].clientX - start.clientX;
      const y = event.changedTouches[0].clientY - start.clientY;
      start = null;
      if (Math.abs(x) > FAR && Math.abs(y) < STEEP * Math.abs(x)) handler(x < 0 ? 1 : -1);
    },
    { passive: true },
  );
}
