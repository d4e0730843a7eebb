/**
 * TestFunction: a PCI function with plain bytes behind its BARs, a record of what its hooks were told, and the protected methods
 * made public. RecordedInterrupts: what left it.
 */
import { type AccessWidth, type BarDefinition, PciFunction, type PciFunctionOptions, type PciInterrupts } from "../../src/pci/function.ts"

export class RecordedInterrupts implements PciInterrupts {
  /** Every call of intx, in order. */
  readonly levels: boolean[] = []
  readonly messages: { address: number; data: number }[] = []

  intx(level: boolean): void {
    this.levels.push(level)
  }

  message(address: number, data: number): void {
    this.messages.push({ address, data })
  }

  get level(): boolean {
    return this.levels.at(-1) ?? false
  }
}

export class TestFunction extends PciFunction {
  readonly storage = new Map<number, Uint8Array>()
  /** What reached readBar and writeBar: "r0+4:2", "w1+8:4=305419896". */
  readonly accesses: string[] = []
  readonly events: string[] = []

  constructor(options: PciFunctionOptions) {
    super(options)
    for (const bar of this.bars) this.storage.set(bar.index, new Uint8Array(Math.min(bar.size, 0x1_0000)))
  }

  protected override readBar(index: number, offset: number, width: AccessWidth): number {
    this.accesses.push(`r${index}+${offset}:${width}`)
    const bytes = this.storage.get(index)
    let value = 0
    for (let i = 0; i < width; i++) value += (bytes?.[offset + i] ?? 0) * 2 ** (8 * i)
    return value
  }

  protected override writeBar(index: number, offset: number, width: AccessWidth, value: number): void {
    this.accesses.push(`w${index}+${offset}:${width}=${value}`)
    const bytes = this.storage.get(index)
    for (let i = 0; i < width; i++) if (bytes !== undefined) bytes[offset + i] = value >>> (8 * i)
  }

  protected override commandChanged(command: number, previous: number): void {
    this.events.push(`command ${previous}>${command} register ${this.configRead(4, 2)}`)
  }

  protected override msixChanged(): void {
    this.events.push(`msix enabled ${this.msix?.enabled} masked ${this.msix?.masked}`)
  }

  override addCapability(id: number, body: Uint8Array, writable?: Uint8Array): number {
    return super.addCapability(id, body, writable)
  }

  override setIntx(asserted: boolean): void {
    super.setIntx(asserted)
  }
}

const NO_INTERRUPTS: PciInterrupts = { intx: () => {}, message: () => {} }

export const DEFAULT_BARS: readonly BarDefinition[] = [
  { index: 0, kind: "io", size: 64 },
  { index: 1, kind: "memory32", size: 4096 },
  { index: 4, kind: "memory64", size: 16384, prefetchable: true },
]

export const OPTIONS: PciFunctionOptions = {
  vendorId: 0x1af4,
  deviceId: 0x1001,
  revision: 0xa5,
  classCode: 0x01_0203,
  subsystemVendorId: 0x1af4,
  subsystemId: 0x0002,
  bars: DEFAULT_BARS,
  interrupts: NO_INTERRUPTS,
}

/** A function with an I/O BAR, a 32-bit and a 64-bit memory BAR unless `options` says otherwise. */
export function testFunction(options: Partial<PciFunctionOptions> = {}): TestFunction {
  return new TestFunction({ ...OPTIONS, ...options })
}

/** Where the MSI-X structures of `msixFunction` are, in BAR 1. */
export const MSIX_TABLE = 0x800
export const MSIX_PBA = 0xc00

/** A function with `vectors` MSI-X vectors (up to 64), a bus master already; Message Control is at 0x42. */
export function msixFunction(vectors: number, interrupts: PciInterrupts = NO_INTERRUPTS): TestFunction {
  const fn = testFunction({ interrupts, msix: { bar: 1, vectors, tableOffset: MSIX_TABLE, pbaOffset: MSIX_PBA } })
  fn.configWrite(0x04, 2, 0x0006)
  fn.events.length = 0
  return fn
}

/** The width's worth of bytes of `value` that are read one by one with `read`. */
export function composed(offset: number, width: AccessWidth, read: (offset: number) => number): number {
  let value = 0
  for (let i = 0; i < width; i++) value += read(offset + i) * 2 ** (8 * i)
  return value
}

export const WIDTHS: readonly AccessWidth[] = [1, 2, 4]
