/** A platform that is RAM and nothing else, for tests of what the driver keeps in memory. */
import type { Platform } from "../../../src/vmm/driver/platform.ts"

const nobody = (): never => {
  throw new Error("there are no registers on this platform")
}

/** `ram` may be replaced during the test, as a WebAssembly memory that grows does. */
export interface RamPlatform extends Platform {
  ram: Uint8Array
}

export function ramPlatform(ram: Uint8Array | number): RamPlatform {
  return {
    portRead: nobody,
    portWrite: nobody,
    mmioRead: nobody,
    mmioWrite: nobody,
    ram: typeof ram === "number" ? new Uint8Array(ram) : ram,
    interrupts: { subscribe: () => () => undefined, level: () => false, takeMessages: () => [] },
  }
}
