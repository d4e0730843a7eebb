/** The options of a `VirtioPciFunction`: defaults and checks. */
import { checkMembers, checkOptions, type Rules } from "../../options.ts"
import type { PciInterrupts } from "../../pci/function.ts"
import { GUEST_MEMORY_RULES, type GuestMemory } from "../guest-memory.ts"
import type { GuestEndian } from "../legacy/big-endian-memory.ts"
import { checkLegacyCan } from "../legacy/modern-only.ts"
import type { Transportable } from "../transport.ts"

/** The maximum of MSI-X. */
const MAX_VECTORS = 2048

/** Which interfaces a driver finds. */
export type VirtioPciInterface = "transitional" | "modern" | "legacy"

/** Options of `VirtioPciFunction`. */
export interface VirtioPciOptions {
  /** Default "transitional": id 0x1001 for block devices, with the legacy registers next to the modern ones. */
  readonly interface?: VirtioPciInterface
  /** The BAR of the modern structures: a 64-bit memory BAR, or an I/O BAR for machines whose PCI bus has only those. Default "memory". */
  readonly modernBar?: "memory" | "io"
  /**
   * Byte order of a guest with a legacy driver, "big" with `interface: "legacy"` only: a modern driver is little-endian anywhere. Default
   * "little".
   */
  readonly guestEndian?: GuestEndian
  /** Number of MSI-X vectors, 0 (no MSI-X) to 2048. Default: one for each queue and one for configuration changes. */
  readonly vectors?: number
}

export const VIRTIO_PCI_RULES: Rules<VirtioPciOptions> = {
  interface: ["transitional", "modern", "legacy"], modernBar: ["memory", "io"], guestEndian: ["little", "big"], vectors: "number?",
}

/** What a function needs of the machine that it is plugged into. */
export interface VirtioPciWiring {
  readonly memory: GuestMemory
  readonly interrupts: PciInterrupts
}

/**
 * The options that the function itself needs, with their defaults.
 * @throws TypeError for wrong options, RangeError for an interface that the guest or the device cannot have, or a wrong number of vectors
 */
export function checkedOptions(
  device: Transportable, options: VirtioPciOptions & VirtioPciWiring,
): { kind: VirtioPciInterface; endian: GuestEndian; vectors: number } {
  checkMembers("VirtioPciFunction", "the device", device, { virtio: "object" }, "Transportable (a VirtioBlk)")
  checkOptions("VirtioPciFunction", options, { ...VIRTIO_PCI_RULES, memory: "object", interrupts: "object" })
  checkMembers("VirtioPciFunction", "memory", options.memory, GUEST_MEMORY_RULES, "GuestMemory")
  const { virtio } = device
  const { interface: kind = "transitional", guestEndian: endian = "little" } = options
  if (endian === "big" && kind !== "legacy") {
    throw new RangeError('VirtioPciFunction: guestEndian "big" needs interface "legacy": a modern driver is little-endian anywhere')
  }
  if (kind !== "modern") checkLegacyCan(virtio, 'give VirtioPciFunction the interface "modern"')
  const vectors = options.vectors ?? Math.min(Math.max(virtio.queueCount + 1, 2), MAX_VECTORS)
  if (!Number.isInteger(vectors) || vectors < 0 || vectors > MAX_VECTORS) {
    throw new RangeError(`vectors: ${vectors} is not a number from 0 to ${MAX_VECTORS}`)
  }
  return { kind, endian, vectors }
}
