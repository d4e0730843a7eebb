/** Lists such as `cluster_size=4k,lazy_refcounts=on`, as `-o` and `--image-opts` take them. */
import { listed, sizeOf, UsageError } from "./arguments.ts"
import { nearest } from "../../options.ts"

/** The values of one or more lists, by key. The last one of a key counts. A comma in a value is written twice. */
export class KeyValues {
  readonly #option: string
  readonly #values = new Map<string, string>()

  /**
   * @param option names the option in messages: "-o"
   * @throws UsageError for an empty list, and for a key that is not `known`
   */
  constructor(option: string, lists: readonly string[], known: readonly string[]) {
    this.#option = option
    for (const list of lists) {
      if (/^(,|$)|(^|[^,])(,,)*,$/.test(list)) throw new UsageError(`${option} "${list}": it must be a list such as key=value,key=value`)
      for (const item of list.replaceAll(",,", "\0").split(",")) this.#add(item.replaceAll("\0", ","), known)
    }
  }

  /** The text of `key`. */
  text(key: string): string | undefined {
    return this.#values.get(key)
  }

  /** The value of `key`, which must be one of `choices`. */
  choice<T extends string>(key: string, choices: readonly T[]): T | undefined {
    const text = this.text(key)
    if (text === undefined) return undefined
    const found = choices.find((choice) => choice === text)
    if (found === undefined) throw new UsageError(`${this.#option} ${key}=${text}: it must be ${listed(choices)}`)
    return found
  }

  /** The boolean value of `key`: on, yes, true or y; off, no, false or n. */
  switch(key: string): boolean | undefined {
    const text = this.text(key)
    if (text === undefined) return undefined
    if (["on", "yes", "true", "y"].includes(text)) return true
    if (["off", "no", "false", "n"].includes(text)) return false
    throw new UsageError(`${this.#option} ${key}=${text}: it must be on or off`)
  }

  /** The value of `key` as a whole number. */
  count(key: string): number | undefined {
    const text = this.text(key)
    if (text === undefined) return undefined
    const value = /^(0x[\da-f]+|\d+)$/i.test(text) ? Number(text) : Number.NaN
    if (!Number.isSafeInteger(value)) throw new UsageError(`${this.#option} ${key}=${text}: it must be a whole number`)
    return value
  }

  /** The value of `key` as a size in bytes. */
  size(key: string): number | undefined {
    const text = this.text(key)
    return text === undefined ? undefined : sizeOf(`${this.#option} ${key}`, text)
  }

  #add(item: string, known: readonly string[]): void {
    const equals = item.indexOf("=")
    const key = equals < 0 ? item : item.slice(0, equals)
    if (!known.includes(key)) {
      const near = nearest(key, known)
      const hint = near === undefined ? `; the keys are ${listed(known, "and")}` : ` (did you mean ${near}?)`
      throw new UsageError(`${this.#option}: there is no key "${key}"${hint}`)
    }
    this.#values.set(key, equals < 0 ? "on" : item.slice(equals + 1))
  }
}

/** Whether a list of keys is asked for: `-o help`, or `-o ?`. */
export function wantsHelp(lists: readonly string[]): boolean {
  return lists.some((list) => list.split(",").some((item) => item === "help" || item === "?"))
}
