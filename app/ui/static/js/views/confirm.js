// A question before something is lost.

import { byId } from "../dom.js";

/** Resolves to null, or, where the person agreed, to {also}: whether what `also` offers was ticked. */
export function confirm({ title, text, yes, also = "" }) {
  const dialog = byId("confirm-dialog");
  byId("confirm-title").textContent = title;
  byId("confirm-text").textContent = text;
  byId("confirm-yes").textContent = yes;
  byId("confirm-also").checked = false;
  byId("confirm-also-words").textContent = also;
  byId("confirm-also-row").hidden = !also;
  dialog.returnValue = "cancel";
  dialog.showModal();
  byId("confirm-cancel").focus();
  return new Promise((resolve) => {
    const closed = () => {
      if (dialog.open) return; // the close of an earlier question, told late
      dialog.removeEventListener("close", closed);
      resolve(dialog.returnValue === "confirm" ? { also: byId("confirm-also").checked } : null);
    };
    dialog.addEventListener("close", closed);
  });
}
