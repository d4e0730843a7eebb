/** Linux boots in a page from a disk in memory. */
import { MemoryBacking } from "vioblk"
import { startMachine } from "../page/machine.ts"
import { Terminal } from "../page/terminal.ts"

/** Boots /images/demo.img, writes a file, and returns what the guest and the memory say of it. */
export async function bootFromMemory(ready: string): Promise<string> {
  const response = await fetch("/images/demo.img")
  const bytes = new Uint8Array(await response.arrayBuffer())
  const screen = document.createElement("div")
  screen.append(document.createElement("div"), document.createElement("canvas"))
  const terminal = new Terminal(document.createElement("pre"), () => undefined)
  const failures: string[] = []
  const { emulator } = await startMachine({
    backing: MemoryBacking.from(bytes), screen, serial: (byte) => terminal.put(byte), failed: (message) => failures.push(message),
  })
  await terminal.expect(new RegExp(`${ready}[^]*# $`))
  emulator.serial0_send("echo written in the gu''est >/mnt/note; sync; echo 3 >/proc/sys/vm/drop_caches; cat /mnt/note; echo DO''NE\n")
  const text = await terminal.expect(/[^]*DONE/)
  await emulator.stop()
  if (failures.length > 0) throw new Error(failures.join("; "))
  const wanted = new TextEncoder().encode("written in the guest\n")
  if (!holds(bytes, wanted)) throw new Error("the memory does not hold what the guest has written")
  return text
}

function holds(bytes: Uint8Array, wanted: Uint8Array): boolean {
  for (let at = bytes.indexOf(wanted[0] ?? 0); at >= 0; at = bytes.indexOf(wanted[0] ?? 0, at + 1)) {
    if (wanted.every((byte, index) => bytes[at + index] === byte)) return true
  }
  return false
}
