/** The demonstration page's terminal holds a bounded amount of what a guest prints, whatever that is. */
import { afterEach, beforeEach, expect, it, vi } from "vitest"

interface Terminal {
  put(byte: number): void
  expect(pattern: RegExp): Promise<string>
}

/** The page is compiled for browsers, so this program's compiler does not know it. */
async function terminal(): Promise<{ readonly terminal: Terminal; readonly shown: () => string }> {
  const { href } = new URL("page/terminal.ts", import.meta.url)
  const page = (await import(href)) as { readonly Terminal: new (element: object, send: (text: string) => void) => Terminal }
  let shown = ""
  const element = {
    scrollHeight: 0, scrollTop: 0, clientHeight: 0, addEventListener: () => undefined,
    replaceChildren: (text: string) => {
      shown = text
    },
  }
  return { terminal: new page.Terminal(element, () => undefined), shown: () => shown }
}

beforeEach(() => {
  vi.useFakeTimers()
  vi.stubGlobal("document", { createElement: () => ({}) })
})

afterEach(() => {
  vi.unstubAllGlobals()
  vi.useRealTimers()
})

function print(to: Terminal, text: string, times: number): void {
  for (let time = 0; time < times; time++) {
    for (let at = 0; at < text.length; at++) to.put(text.charCodeAt(at))
  }
}

it("the end of output that was not expected is kept", async () => {
  const { terminal: one } = await terminal()
  print(one, "0123456789abcde\n", 1 << 17)
  print(one, "the end", 1)
  const unread = await one.expect(/^[^]*$/)
  expect(unread.endsWith("e\nthe end")).toBe(true)
  expect(unread.length).toBeLessThanOrEqual(1 << 19)
})

it.each([
  ["a line without an end", "0123456789abcdef", ""], ["an escape sequence without an end", "\x1b[", "0"],
  ["a cursor that only moves", "", "\x1b[C"],
])("%s does not grow without bound", async (_, first, again) => {
  const { terminal: one, shown } = await terminal()
  print(one, first, again === "" ? 20_000 : 1)
  print(one, again, again === "" ? 0 : 100_000)
  print(one, "x\nback again", 1)
  vi.runAllTimers()
  expect(shown().split("\n").at(-1)).toContain("back again")
  expect(Math.max(...shown().split("\n").map(({ length }) => length))).toBeLessThanOrEqual(1100)
})
