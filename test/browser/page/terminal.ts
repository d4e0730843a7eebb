/** A serial terminal: what a guest's shell needs, and no more. */

/** Lines that can be scrolled back to. */
const MOST_LINES = 2000
/** Characters of a line; what is printed behind them begins a new one. */
const MOST_COLUMNS = 1000
/** Characters of an escape sequence: a longer one is none. */
const MOST_ESCAPE = 32
/** Characters that are kept for `expect`, which comes seldom or never. */
const MOST_UNREAD = 1 << 18

const KEYS: Readonly<Record<string, string>> = {
  Enter: "\r", Backspace: "\x7f", Tab: "\t", Escape: "\x1b", ArrowUp: "\x1b[A", ArrowDown: "\x1b[B", ArrowRight: "\x1b[C",
  ArrowLeft: "\x1b[D", Home: "\x1b[H", End: "\x1b[F", Delete: "\x1b[3~",
}

interface Waiting {
  readonly pattern: RegExp
  readonly resolve: (match: string) => void
}

export class Terminal {
  readonly #element: HTMLElement
  readonly #lines: string[] = [""]
  #column = 0
  #escape = ""
  #isDrawn = true
  /** Everything that was printed and not yet expected. */
  #unread = ""
  readonly #waiting: Waiting[] = []

  /** `send` gets what a person types. */
  constructor(element: HTMLElement, send: (text: string) => void) {
    this.#element = element
    element.tabIndex = 0
    element.addEventListener("keydown", (event) => {
      const text = textOf(event)
      if (text === undefined) return
      event.preventDefault()
      send(text)
    })
    element.addEventListener("paste", (event) => send((event.clipboardData?.getData("text") ?? "").replaceAll("\n", "\r")))
  }

  /** Shows one byte from the guest. */
  put(byte: number): void {
    const character = String.fromCharCode(byte)
    this.#unread += character
    // Cut seldom: each cut copies.
    if (this.#unread.length > 2 * MOST_UNREAD) this.#unread = this.#unread.slice(-MOST_UNREAD)
    this.#show(character)
    this.#serve()
    if (!this.#isDrawn) return
    this.#isDrawn = false
    setTimeout(() => this.#draw(), 30)
  }

  /** Shows a line of our own. */
  note(text: string): void {
    for (const character of `${text}\r\n`) this.#show(character)
    this.#draw()
  }

  /** Waits until the output matches, and consumes it up to the end of the match, which it returns. */
  expect(pattern: RegExp): Promise<string> {
    return new Promise((resolve) => {
      this.#waiting.push({ pattern, resolve })
      this.#serve()
    })
  }

  #serve(): void {
    const [first] = this.#waiting
    const match = first?.pattern.exec(this.#unread)
    if (first === undefined || match === null || match === undefined) return
    this.#unread = this.#unread.slice(match.index + match[0].length)
    this.#waiting.shift()
    first.resolve(match[0])
  }

  #show(character: string): void {
    if (this.#escape !== "" || character === "\x1b") this.#escaped(character)
    else if (character === "\n") this.#newLine()
    else if (character === "\r") this.#column = 0
    else if (character === "\b") this.#column = Math.max(0, this.#column - 1)
    else if (character >= " ") this.#overwrite(character)
  }

  /** Colours are dropped; of the rest, erasing counts. */
  #escaped(character: string): void {
    this.#escape += character
    const isDone = /^\x1b(\[[0-9;?]*[@-~]|[^[])$/.test(this.#escape)
    if (!isDone && this.#escape.length < MOST_ESCAPE) return
    const line = this.#lines.at(-1) ?? ""
    if (this.#escape.endsWith("K") || this.#escape.endsWith("J")) this.#lines[this.#lines.length - 1] = line.slice(0, this.#column)
    if (this.#escape.endsWith("[C")) this.#column++
    if (this.#escape.endsWith("[D")) this.#column = Math.max(0, this.#column - 1)
    this.#escape = ""
  }

  #newLine(): void {
    this.#lines.push("")
    this.#column = 0
    if (this.#lines.length > MOST_LINES) this.#lines.shift()
  }

  #overwrite(character: string): void {
    if (this.#column >= MOST_COLUMNS) this.#newLine()
    const line = (this.#lines.at(-1) ?? "").padEnd(this.#column)
    this.#lines[this.#lines.length - 1] = line.slice(0, this.#column) + character + line.slice(this.#column + 1)
    this.#column++
  }

  #draw(): void {
    this.#isDrawn = true
    const isAtEnd = this.#element.scrollHeight - this.#element.scrollTop - this.#element.clientHeight < 40
    const cursor = document.createElement("span")
    cursor.className = "cursor"
    this.#element.replaceChildren(this.#lines.join("\n"), cursor)
    if (isAtEnd) this.#element.scrollTop = this.#element.scrollHeight
  }
}

/** What a key sends down the line; undefined for one that is the browser's. */
function textOf(event: KeyboardEvent): string | undefined {
  if (event.metaKey || event.altKey) return undefined
  if (event.ctrlKey) return /^[a-z]$/.test(event.key) && event.key !== "v" ? String.fromCharCode(event.key.charCodeAt(0) - 96) : undefined
  return KEYS[event.key] ?? (event.key.length === 1 ? event.key : undefined)
}
