/** An ACPI table that tells a guest where its virtio-mmio devices are, byte by byte ([ACPI] 5.2.11.2 and 20.2). */
import type { MmioPlace } from "../../../src/vmm/mmio-discovery.ts"

const ascii = (text: string): number[] => [...Buffer.from(text, "latin1")]
const le32 = (value: number): number[] => [0, 8, 16, 24].map((shift) => (value >>> shift) & 0xff)

/** [ACPI] 20.2.4: a package's length counts its own bytes: two here. */
function sized(body: readonly number[]): number[] {
  const length = body.length + 2
  return [0x40 | (length & 0x0f), length >> 4, ...body]
}

/** A table that says: \_SB has devices "LNRO0005", each with registers and a shared, level-triggered interrupt. */
export function ssdt(places: readonly MmioPlace[]): Uint8Array {
  const devices = places.map(({ address, size, line }, index) => {
    // [ACPI] 6.4.3.4 and 6.4.3.6: 32-bit fixed memory, writable; an extended interrupt.
    const resources = [0x86, 9, 0, 1, ...le32(address), ...le32(size), 0x89, 6, 0, 0x09, 1, ...le32(line), 0x79, 0]
    const body = [
      ...ascii(`VM0${index}`), 0x08, ...ascii("_HID"), 0x0d, ...ascii("LNRO0005"), 0, 0x08, ...ascii("_UID"), 0x0a, index, 0x08,
      ...ascii("_CRS"), 0x11, ...sized([0x0a, resources.length, ...resources]),
    ]
    return [0x5b, 0x82, ...sized(body)]
  })
  const aml = [0x10, ...sized([...ascii("\\_SB_"), ...devices.flat()])]
  const header = [
    ...ascii("SSDT"), ...le32(36 + aml.length), 2, 0, ...ascii("VIOBLK"), ...ascii("VIOMMIO "), ...le32(1), ...ascii("VIOB"), ...le32(1),
  ]
  const table = Uint8Array.from([...header, ...aml])
  table[9] = (256 - (table.reduce((sum, byte) => sum + byte, 0) % 256)) % 256
  return table
}
