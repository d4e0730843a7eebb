/**
 * WordRegisters: the control registers of a device over MMIO. A driver may access them only by aligned words of 32 bits ([VIRTIO] 4.2.2.2);
 * any other access reads 0 and writes nothing.
 */

/** One register of 32 bits. Values are unsigned. Without `read` it is write-only and reads 0; without `write` it is read-only. */
export interface WordRegister {
  /** Bytes from the start of the registers. */
  readonly offset: number
  readonly read?: () => number
  readonly write?: (value: number) => void
}

export class WordRegisters {
  /** By word. */
  readonly #registers: (WordRegister | undefined)[] = []

  constructor(registers: readonly WordRegister[]) {
    for (const register of registers) this.#registers[register.offset / 4] = register
  }

  read(offset: number, width: number): number {
    return this.#at(offset, width)?.read?.() ?? 0
  }

  write(offset: number, width: number, value: number): void {
    this.#at(offset, width)?.write?.(value)
  }

  #at(offset: number, width: number): WordRegister | undefined {
    return width === 4 && offset % 4 === 0 ? this.#registers[offset / 4] : undefined
  }
}
