/** Writes a "newc" cpio archive, the format of a Linux initramfs ([Linux] Documentation/driver-api/early-userspace/buffer-format.rst). */

export interface ArchiveEntry {
  readonly name: string
  readonly mode: number
  readonly data?: Uint8Array
  readonly device?: readonly [major: number, minor: number]
}

export const directory = (name: string): ArchiveEntry => ({ name, mode: 0o040755 })
export const file = (name: string, data: Uint8Array | string, permissions = 0o644): ArchiveEntry =>
  ({ name, mode: 0o100000 + permissions, data: typeof data === "string" ? Buffer.from(data) : data })
export const characterDevice = (name: string, major: number, minor: number): ArchiveEntry => ({
  name, mode: 0o020600, device: [major, minor],
})

/** The archive with its trailer. Entries keep their order; a directory must come before what is in it. */
export function archive(entries: readonly ArchiveEntry[]): Uint8Array<ArrayBuffer> {
  const parts: Uint8Array[] = []
  let inode = 1
  for (const entry of [...entries, { name: "TRAILER!!!", mode: 0 } satisfies ArchiveEntry]) {
    const data = entry.data ?? new Uint8Array(0)
    const name = Buffer.from(`${entry.name}\0`)
    const [major, minor] = entry.device ?? [0, 0]
    const fields = [inode++, entry.mode, 0, 0, 1, 0, data.length, 0, 0, major, minor, name.length, 0]
    const header = Buffer.from(`070701${fields.map((field) => field.toString(16).toUpperCase().padStart(8, "0")).join("")}`)
    parts.push(header, name, padding(header.length + name.length), data, padding(data.length))
  }
  const whole = Buffer.concat(parts)
  return new Uint8Array(whole)
}

function padding(length: number): Uint8Array {
  return new Uint8Array((4 - (length % 4)) % 4)
}
