/**
 * The members of v86's objects that we use, as named in its published build (0.5.462). Nothing of v86 is imported.
 */
import type { V86Ram } from "./memory.ts"

/** The handlers of one port. v86 calls them with `device` as `this`; 32-bit values are signed. */
export interface V86Port {
  read8: (port: number) => number
  read16: (port: number) => number
  read32: (port: number) => number
  write8: (value: number) => void
  write16: (value: number) => void
  write32: (value: number) => void
  /** Undefined if no device answers. */
  device: unknown
}

/** v86's PCI bus. A function's id is its device number times 8. */
export interface V86Pci {
  /** CONFIG_ADDRESS (port 0xCF8). */
  readonly pci_addr32: Int32Array
  readonly devices: unknown[]
  readonly device_spaces: (Int32Array | undefined)[]
  /** Configuration space of the PIIX3 ISA bridge, which routes the interrupt pins. */
  readonly isa_bridge_space8: Uint8Array
  register_device(device: { pci_id: number; pci_space: Uint8Array; pci_bars: never[]; name: string }): Int32Array
  raise_irq(id: number): void
  lower_irq(id: number): void
  get_state(): unknown[]
  set_state(state: unknown[]): void
}

/** v86's power management function (PIIX4), only with `acpi: true`. */
export interface V86Acpi {
  readonly pm1_status: number
  readonly pm1_enable: number
  /** Drives interrupt line 9 for the PM timer; v86 calls it every few milliseconds. */
  timer(now: number): number
}

export interface V86Cpu extends V86Ram {
  readonly devices: { readonly pci?: V86Pci; readonly acpi?: V86Acpi }
  readonly io: { readonly ports: V86Port[] }
  device_raise_irq(line: number): void
  device_lower_irq(line: number): void
  reboot_internal(): void
}

/** The emulator object, as far as we patch it. */
export interface V86Saver {
  save_state(): Promise<ArrayBuffer>
  restore_state(state: ArrayBuffer): Promise<void>
}

/** Members of `V86Cpu` and their types. Buses and ports are objects or arrays. */
const MEMBERS: readonly (readonly [path: string, type: "object" | "function" | "number"])[] = [
  ["devices.pci", "object"], ["io.ports", "object"], ["wasm_memory.buffer", "object"], ["mem8.byteOffset", "number"],
  ["mem8.length", "number"],
  ...(["pci_addr32", "devices", "device_spaces", "isa_bridge_space8"] as const).map((name) => [`devices.pci.${name}`, "object"] as const),
  ...(["register_device", "raise_irq", "lower_irq", "get_state", "set_state"] as const).map(
    (name) => [`devices.pci.${name}`, "function"] as const,
  ),
  ["jit_dirty_cache", "function"], ["device_raise_irq", "function"], ["device_lower_irq", "function"], ["reboot_internal", "function"],
]

/** @throws Error for a machine of an incompatible build, which would otherwise fail later */
export function checkMachine(cpu: object): void {
  for (const [path, type] of MEMBERS) {
    const found = path.split(".").reduce<unknown>((value, name) => (isObject(value) ? Reflect.get(value, name) : undefined), cpu)
    if (type === "object" ? isObject(found) : typeof found === type) continue
    const what = `emulator.v86.cpu.${path} is not ${type === "object" ? "an" : "a"} ${type}`
    throw new Error(`attachToV86: ${what}: this is not v86 0.5.462, nor a build that has the same members`)
  }
}

function isObject(value: unknown): value is object {
  return typeof value === "object" && value !== null
}
