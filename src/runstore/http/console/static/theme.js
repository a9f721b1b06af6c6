// Light or dark: as the system has it, unless the user chose otherwise.

const THEME = "runstore.theme";
const ALL = ["auto", "light", "dark"];

export const theme = () => (ALL.includes(localStorage.getItem(THEME)) ? localStorage.getItem(THEME) : "auto");
export const nextTheme = () => ALL[(ALL.indexOf(theme()) + 1) % ALL.length];

export function applyTheme(chosen) {
  localStorage.setItem(THEME, chosen);
  document.documentElement.dataset.theme = chosen;
  return chosen;
}
