/**
 * CapabilityList: lays out the linked list of capabilities in a configuration space, from the end of the header upwards, in the
 * order they are added ([PCI] 6.7). Every capability starts at a multiple of 4; the last one's next pointer is 0.
 */
import { CONFIG_SPACE_SIZE, type ConfigSpace, PCI_CONFIG, PCI_STATUS } from "./config-space.ts"

/** The id byte and the next pointer in front of each capability's body. */
const LINK_SIZE = 2

export class CapabilityList {
  readonly #config: ConfigSpace
  /** Offset of the pointer that links the next capability. */
  #pointer: number = PCI_CONFIG.CAPABILITIES_POINTER
  #end: number = PCI_CONFIG.HEADER_END

  constructor(config: ConfigSpace) {
    this.#config = config
  }

  /**
   * Appends a capability and links it. Returns its offset in configuration space.
   * @param body the bytes after the id byte and the next pointer
   * @param writable a mask of the bits of `body` that software may write, of the same length. Default: all are read-only
   * @throws RangeError when it does not fit below the end of configuration space
   */
  add(id: number, body: Uint8Array, writable?: Uint8Array): number {
    const offset = this.#end
    const end = offset + LINK_SIZE + body.length
    const where = `capability 0x${id.toString(16).padStart(2, "0")} of ${LINK_SIZE + body.length} bytes`
    if (end > CONFIG_SPACE_SIZE) {
      throw new RangeError(`${where} does not fit: configuration space is full from offset ${offset} of ${CONFIG_SPACE_SIZE}`)
    }
    if (writable !== undefined && writable.length !== body.length) {
      throw new RangeError(`${where} has a mask of ${writable.length} bytes for a body of ${body.length}`)
    }
    this.#config.define(offset, 1, id)
    this.#config.define(offset + 1, 1, 0)
    for (const [i, value] of body.entries()) this.#config.define(offset + LINK_SIZE + i, 1, value, { writable: writable?.[i] ?? 0 })
    this.#config.define(this.#pointer, 1, offset)
    this.#config.store(PCI_CONFIG.STATUS, 2, this.#config.read(PCI_CONFIG.STATUS, 2) | PCI_STATUS.CAPABILITIES_LIST)
    this.#pointer = offset + 1
    this.#end = Math.ceil(end / 4) * 4
    return offset
  }
}
