/**
 * `using` and `await using` for classes with `close`: methods named `Symbol.dispose` and `Symbol.asyncDispose`, on platforms that have
 * these. Every room may import this file; it imports nothing.
 *
 * The types depend on the user's libraries of types: if these lack the symbols, the classes lack the members.
 */

/** The used part of `Symbol`. It includes `iterator` so that it overlaps with the type of old libraries, which lack the other two. */
interface Symbols {
  readonly iterator: symbol
  readonly dispose?: symbol
  readonly asyncDispose?: symbol
}

type KeyOf<Name extends string> = SymbolConstructor extends Readonly<Record<Name, infer Key extends symbol>> ? Key : never

/** Something that `await using` closes. */
export type AsyncDisposing = Readonly<Record<KeyOf<"asyncDispose">, () => Promise<void>>>

/** Something that `using` closes; `await using` does as well. */
export type Disposing = AsyncDisposing & Readonly<Record<KeyOf<"dispose">, () => void>>

/** Makes instances of `Closed` close at the end of a block of `await using`, and of `using` where that takes no promise. */
export function closesWithBlock(Closed: { readonly prototype: { close(): unknown } }, kind: "at once" | "later" = "at once"): void {
  const { dispose, asyncDispose }: Symbols = Symbol
  const { prototype } = Closed
  const add = (key: symbol | undefined, value: (this: { close(): unknown }) => unknown): void => {
    if (key !== undefined) Object.defineProperty(prototype, key, { value, configurable: true, writable: true })
  }
  add(asyncDispose, async function () {
    await this.close()
  })
  if (kind === "later") return
  add(dispose, function () {
    this.close()
  })
}

/** Makes `await using` close `disk`, and returns it. */
export function closing<D extends { close(): unknown }>(disk: D): D & AsyncDisposing {
  const { asyncDispose }: Symbols = Symbol
  if (asyncDispose !== undefined && !(asyncDispose in disk) && Object.isExtensible(disk)) closesWithBlock({ prototype: disk }, "later")
  return disk as D & AsyncDisposing
}
