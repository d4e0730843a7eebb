/** The abilities of the terminal on standard output. */

export interface Terminal {
  readonly columns: number
  readonly hasColours: boolean
  /** Whether it shows more than ASCII. */
  readonly isUnicode: boolean
}

/** The terminal on standard output. A pipe, for which Node has no such properties, gets 80 columns and no colours. */
export function terminal(): Terminal {
  const { NO_COLOR = "", TERM = "", LC_ALL = "", LC_CTYPE = "", LANG = "" } = process.env
  return {
    columns: process.stdout.columns > 0 ? process.stdout.columns : 80,
    hasColours: process.stdout.isTTY === true && NO_COLOR === "" && TERM !== "dumb",
    isUnicode: /utf-?8/i.test(LC_ALL || LC_CTYPE || LANG),
  }
}
