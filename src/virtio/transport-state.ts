/** Checks the common part of the saved states of our transports: a state of another transport is refused by name. */
import { checkStateVersion, savedObject, shown } from "../saved-state.ts"

type State = Readonly<Record<string, unknown>>

/** A member that only states of virtio over MMIO have. */
const OF_MMIO = "mmioVersion"

/** The saved state of a transport of this kind. @throws Error for anything else, or for an unknown version */
export function savedTransport(saved: unknown, kind: "PCI" | "MMIO"): State {
  const state = savedObject(saved, `virtio over ${kind}`)
  checkStateVersion(state["version"])
  const found = state[OF_MMIO] !== undefined ? "MMIO" : state["function"] !== undefined ? "PCI" : kind
  if (found !== kind) throw new Error(`saved state: it is of virtio over ${found}, this is virtio over ${kind}`)
  return state
}

/** @throws Error for the state of a guest with another byte order or another number of queues */
export function checkSameGuest(state: State, own: { readonly guestEndian: "little" | "big"; readonly queues: number }): void {
  const endian = state["guestEndian"] ?? "little"
  if (endian !== own.guestEndian) {
    throw new Error(`saved state: its guest is ${shown(endian)}-endian, this one ${own.guestEndian}-endian`)
  }
  const { queues } = savedObject(state["device"], "virtio device")
  if (!Array.isArray(queues) || queues.length === own.queues) return
  throw new Error(`saved state: its device has ${queues.length} queues, this one ${own.queues}`)
}
