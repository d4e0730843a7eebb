/**
 * FakeV86: the parts of a v86 machine that attachToV86 uses, with the behaviour of v86 0.5.462 (src/pci.js, src/io.js, src/cpu.js,
 * src/acpi.js), for tests that take milliseconds; test/linux runs the real one. It is also a platform for our guest driver.
 */
import type { PlatformInterrupts, Platform } from "../../../src/vmm/driver/platform.ts"

interface Entry {
  read8: (port: number) => number
  read16: (port: number) => number
  read32: (port: number) => number
  write8: (value: number) => void
  write16: (value: number) => void
  write32: (value: number) => void
  device: unknown
}

const emptyEntry = (): Entry => ({
  read8: () => 0xff,
  read16: () => 0xffff,
  read32: () => -1,
  write8: () => {},
  write16: () => {},
  write32: () => {},
  device: undefined,
})

/** The ES library that we compile with does not declare it. */
declare const WebAssembly: {
  readonly Memory: new (limits: { initial: number; maximum: number }) => { readonly buffer: ArrayBuffer; grow(pages: number): number },
}

const PAGE = 65536
/** RAM does not begin where the WebAssembly memory does. */
const RAM_OFFSET = PAGE

export class FakePci {
  readonly pci_addr32 = new Int32Array(1)
  readonly devices: unknown[] = new Array(256).fill(undefined)
  readonly device_spaces: (Int32Array | undefined)[] = new Array(256).fill(undefined)
  readonly isa_bridge_space8 = new Uint8Array(256)
  /** Level of each interrupt line, and how often it was raised. */
  readonly lines = new Map<number, boolean>()
  raised = 0
  onInterrupt: () => void = () => {}

  constructor(ports: Entry[]) {
    this.isa_bridge_space8.set([10, 10, 11, 11], 0x60)
    const selected = (): Int32Array | undefined => this.device_spaces[((this.pci_addr32[0] ?? 0) >> 8) & 0xffff]
    const address = emptyEntry()
    address.write32 = (value) => void (this.pci_addr32[0] = value)
    address.read32 = () => this.pci_addr32[0] ?? 0
    ports[0xcf8] = address
    for (let byte = 0; byte < 4; byte++) {
      const data = emptyEntry()
      data.device = this
      const word = (): number => selected()?.[((this.pci_addr32[0] ?? 0) & 0xfc) >> 2] ?? -1
      data.read8 = () => (word() >>> (8 * byte)) & 0xff
      data.read16 = () => (word() >>> (8 * byte)) & 0xffff
      data.read32 = word
      // v86 uses the table of a device without checking that there is one.
      data.write8 = data.write16 = () => {
        if (selected() === undefined) throw new TypeError("v86 stops at a write to a function that is not there")
      }
      ports[0xcfc + byte] = data
    }
  }

  register_device(device: { pci_id: number; pci_space: Uint8Array; pci_bars: never[]; name: string }): Int32Array {
    const space = new Int32Array(64)
    space.set(new Int32Array(device.pci_space.slice().buffer))
    this.devices[device.pci_id] = device
    this.device_spaces[device.pci_id] = space
    return space
  }

  line(id: number): number {
    const pin = ((this.device_spaces[id]?.[15] ?? 0) >> 8) & 0xff
    return this.isa_bridge_space8[0x60 + ((pin - 1 + (id >> 3) - 1) & 3)] ?? 0
  }

  raise_irq(id: number): void {
    this.raised++
    this.setLine(this.line(id), true)
  }

  lower_irq(id: number): void {
    this.setLine(this.line(id), false)
  }

  setLine(line: number, level: boolean): void {
    this.lines.set(line, level)
    this.onInterrupt()
  }

  get_state(): unknown[] {
    return [...this.device_spaces, this.pci_addr32]
  }

  set_state(state: unknown[]): void {
    for (let id = 0; id < 256; id++) {
      const space = state[id]
      if (Array.isArray(space)) this.device_spaces[id]?.set(space as number[])
    }
  }
}

/** As src/acpi.js: plain bytes for the event registers, and a timer that either raises or lowers the line. */
class FakeAcpi {
  pm1_status = 0
  pm1_enable = 0
  readonly #gpe = [0, 0, 0, 0]
  readonly #pci: FakePci

  constructor(ports: Entry[], pci: FakePci) {
    this.#pci = pci
    for (let byte = 0; byte < 4; byte++) {
      const entry = emptyEntry()
      entry.device = this
      entry.read8 = () => this.#gpe[byte] ?? 0
      entry.write8 = (value) => void (this.#gpe[byte] = value)
      ports[0xafe0 + byte] = entry
    }
  }

  timer(_now: number): number {
    this.#pci.setLine(9, (this.pm1_status & this.pm1_enable) !== 0)
    return 100
  }
}

export class FakeV86 implements Platform {
  readonly memory = new WebAssembly.Memory({ initial: 33, maximum: 64 })
  readonly ports: Entry[] = Array.from({ length: 0x1_0000 }, emptyEntry)
  readonly pci = new FakePci(this.ports)
  readonly dirty: (readonly [number, number])[] = []
  readonly acpi: FakeAcpi | undefined
  reboots = 0
  #ready: (() => void)[] = []
  v86: unknown

  constructor(options: { readonly acpi?: boolean } = {}) {
    this.acpi = options.acpi === true ? new FakeAcpi(this.ports, this.pci) : undefined
  }

  /** Makes the machine, which v86 does some time after its constructor. */
  start(): void {
    const { memory, pci, ports } = this
    const ramSize = 32 * PAGE
    this.v86 = {
      cpu: {
        wasm_memory: memory,
        get mem8() {
          return new Uint8Array(memory.buffer, RAM_OFFSET, ramSize)
        },
        jit_dirty_cache: (start: number, end: number) => {
          if (start >= end) throw new Error(`v86 wants no empty range: ${start} to ${end}`)
          this.dirty.push([start, end])
        },
        devices: { pci, ...(this.acpi === undefined ? {} : { acpi: this.acpi }) },
        io: { ports },
        device_raise_irq: (line: number) => pci.setLine(line, true),
        device_lower_irq: (line: number) => pci.setLine(line, false),
        reboot_internal: () => void this.reboots++,
      },
    }
    for (const listener of this.#ready) listener()
  }

  add_listener(event: string, listener: () => void): void {
    if (event === "emulator-ready") this.#ready.push(listener)
  }

  /** As v86 does it: JSON, and PCI is restored before RAM. */
  async save_state(): Promise<ArrayBuffer> {
    const pci = JSON.parse(
      JSON.stringify(this.pci.get_state(), (_, value: unknown) => (value instanceof Int32Array ? [...value] : value)),
    ) as unknown
    return new Uint8Array(Buffer.from(JSON.stringify({ pci, ram: Buffer.from(this.ram).toString("base64") }))).buffer
  }

  async restore_state(state: ArrayBuffer): Promise<void> {
    const { pci, ram } = JSON.parse(Buffer.from(state).toString()) as { pci: unknown[]; ram: string }
    this.pci.set_state(pci)
    this.ram.set(Buffer.from(ram, "base64"))
  }

  reboot(): void {
    ;(this.v86 as { cpu: { reboot_internal(): void } }).cpu.reboot_internal()
  }

  // --- Platform ------------------------------------------------------------------------------------------------------------

  get ram(): Uint8Array {
    return new Uint8Array(this.memory.buffer, RAM_OFFSET, 32 * PAGE)
  }

  portRead(port: number, width: 1 | 2 | 4): number {
    const entry = this.ports[port] ?? emptyEntry()
    const value = width === 1
      ? entry.read8.call(entry.device, port)
      : width === 2 ? entry.read16.call(entry.device, port) : entry.read32.call(entry.device, port)
    if (width === 4 ? value !== (value | 0) : value < 0 || value >= 2 ** (8 * width)) {
      throw new Error(`v86 would stumble over ${value} from port ${port}`)
    }
    return value >>> 0
  }

  portWrite(port: number, width: 1 | 2 | 4, value: number): void {
    const entry = this.ports[port] ?? emptyEntry()
    if (width === 1) entry.write8.call(entry.device, value & 0xff)
    else if (width === 2) entry.write16.call(entry.device, value & 0xffff)
    else entry.write32.call(entry.device, value | 0)
  }

  mmioRead(): number {
    return 0xff
  }

  mmioWrite(): void {}

  readonly interrupts: PlatformInterrupts = {
    subscribe: (listener) => {
      this.pci.onInterrupt = listener
      return () => void (this.pci.onInterrupt = () => {})
    },
    level: (line) => this.pci.lines.get(line) ?? false,
    takeMessages: () => [],
  }

  // --- What firmware does --------------------------------------------------------------------------------------------------

  config(slot: number, offset: number, width: 1 | 2 | 4, value?: number): number {
    this.portWrite(0xcf8, 4, 0x8000_0000 + slot * 0x800 + (offset & 0xfc))
    if (value !== undefined) this.portWrite(0xcfc + (offset & 3), width, value)
    return this.portRead(0xcfc + (offset & 3), width)
  }

  /** Sizes and places the I/O BARs of `slot` from `port` on, writes the interrupt line, turns decoding on. */
  assign(slot: number, port: number): void {
    for (let offset = 0x10; offset < 0x28; offset += 4) {
      const sized = this.config(slot, offset, 4, 0xffff_ffff)
      if ((sized & 1) === 0) {
        this.config(slot, offset, 4, 0)
        continue
      }
      const size = (~(sized & ~3) & 0xffff) + 1
      port = Math.ceil(port / size) * size
      this.config(slot, offset, 4, port)
      port += size
    }
    this.config(slot, 0x3c, 1, this.pci.line(slot << 3))
    this.config(slot, 0x04, 2, 0x0001)
  }
}
