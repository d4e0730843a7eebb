/** Encrypted images in a page, with the platform's own cryptography. */
import { createDisk, httpFile, MemoryFile, openDisk } from "vioblk"

/** Reads /images/luks.qcow2 over HTTP, writes a copy of it, makes another image, and returns both files in base64. */
export async function readAndWrite(passphrase: string): Promise<{ readonly sum: number; readonly written: string; readonly made: string }> {
  const late = await openDisk(httpFile(new URL("/images/luks.qcow2", location.href).href), { passphrase })
  const bytes = new Uint8Array(5000)
  await late.pread(bytes, 777)
  await late.close()
  const response = await fetch("/images/luks.qcow2")
  const written = MemoryFile.from(new Uint8Array(await response.arrayBuffer()))
  const made = new MemoryFile()
  await createDisk(made, { size: 1 << 20, encryption: { passphrase, cipher: "aes-128", iterTime: 1 } })
  for (const file of [written, made]) {
    const disk = await openDisk(file, { passphrase })
    await disk.pwrite(new Uint8Array(3000).fill(9), 100_001)
    await disk.flush?.()
  }
  return { sum: bytes.reduce((found, byte) => found + byte, 0), written: base64(written), made: base64(made) }
}

/** What a wrong passphrase is answered with. */
export async function wrongPassphrase(): Promise<string> {
  try {
    await openDisk(httpFile(new URL("/images/luks.qcow2", location.href).href), { passphrase: "wrong" })
    return "it opened"
  } catch (error) {
    return String(error)
  }
}

function base64(file: MemoryFile): string {
  const bytes = new Uint8Array(file.size())
  file.read(bytes, 0)
  return btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""))
}
