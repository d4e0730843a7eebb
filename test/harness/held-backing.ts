/** A disk in memory that answers when the test says so: every call waits in `calls`, and nothing is moved before `finish`. */
import type { VirtioBacking } from "../../src/backing/backing.ts"

export interface HeldCall {
  readonly name: "pread" | "pwrite" | "flush"
  readonly offset: number
  /** Does what was asked for, and resolves the promise. */
  finish(): void
  /** Rejects the promise. */
  fail(error: unknown): void
}

export class HeldBacking implements VirtioBacking {
  readonly content: Uint8Array
  readonly readOnly = false
  /** Those that have not been answered, oldest first. */
  readonly calls: HeldCall[] = []

  constructor(content: Uint8Array) {
    this.content = content
  }

  get size(): number {
    return this.content.length
  }

  pread(buffer: Uint8Array, offset: number): Promise<void> {
    return this.#hold("pread", offset, () => buffer.set(this.content.subarray(offset, offset + buffer.length)))
  }

  pwrite(buffer: Uint8Array, offset: number): Promise<void> {
    return this.#hold("pwrite", offset, () => this.content.set(buffer, offset))
  }

  flush(): Promise<void> {
    return this.#hold("flush", 0, () => {})
  }

  close(): void {}

  /** Answers the oldest call, and lets everything that follows from it happen. */
  async finishNext(): Promise<void> {
    const call = this.calls[0]
    if (call === undefined) throw new Error("the disk has not been asked for anything")
    call.finish()
    await turn()
  }

  #hold(name: HeldCall["name"], offset: number, act: () => void): Promise<void> {
    return new Promise((resolve, reject) => {
      const forget = (): void => void this.calls.splice(this.calls.indexOf(call), 1)
      const call: HeldCall = {
        name,
        offset,
        finish: () => {
          forget()
          // A disk that throws on a buffer that is gone (WebAssembly memory that grew) is one that rejects.
          try {
            act()
            resolve()
          } catch (error) {
            reject(error)
          }
        },
        fail: (error) => {
          forget()
          reject(error)
        },
      }
      this.calls.push(call)
    })
  }
}

/** Once around the event loop: everything that waited for settled promises has run. */
export function turn(): Promise<void> {
  return new Promise((resolve) => setImmediate(resolve))
}
