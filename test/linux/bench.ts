/**
 * `npm run bench:guest [-- acpi | http]`: our disk beside v86's own IDE disk (RAM behind it) in one guest, on request one with ACPI. The
 * same content, dd with direct I/O; each row after a pass that warms v86's compiler, best of the rounds. Times are the host's; instructions
 * are those of the guest's processor, for each request. With "http": what a boot over HTTP fetches instead.
 */
import { argv } from "node:process"
import { attachToV86 } from "../../src/vmm/v86/attach.ts"
import { makeImage, open, pattern } from "./disks.ts"
import { Guest } from "./emulator.ts"
import { benchHttpBoot } from "./http/boot.ts"
import { initramfs } from "./initramfs.ts"
import { linuxOptions } from "./linux.ts"
import { debianKernel } from "./packages.ts"
import { GuestContext } from "./suite.ts"

const MIB = 1 << 20
const SIZE = 128 * MIB
const ROUNDS = 3

interface Row { readonly name: string; readonly command: (device: string) => string; readonly requests: number; readonly bytes: number }

const dd = (name: string, direction: "read" | "write", block: string, count: number, bytes: number): Row => ({
  name: `${direction} ${name}`, requests: count, bytes,
  command: (device) => (
    direction === "read"
      ? `dd if=/dev/${device} of=/dev/null bs=${block} count=${count} iflag=direct`
      : `dd if=/dev/zero of=/dev/${device} bs=${block} count=${count} oflag=direct`
  ),
})
const ROWS: readonly Row[] = [
  dd("1 MiB", "read", "1M", 128, 128 * MIB), dd("4 KiB", "read", "4k", 4096, 16 * MIB), dd("1 MiB", "write", "1M", 128, 128 * MIB),
  dd("4 KiB", "write", "4k", 4096, 16 * MIB),
]

async function main(): Promise<void> {
  const context = new GuestContext(() => undefined)
  const content = new Uint8Array(SIZE)
  for (let at = 0; at < SIZE; at += 16 * MIB) content.set(pattern(16 * MIB, at + 1), at)
  const raw = open(context.path("raw"), makeImage(context.path("raw"), "raw", content))
  const qcow2 = open(context.path("qcow2"), makeImage(context.path("qcow2"), "qcow2", content))
  const initrd = initramfs({ kernel: debianKernel(), modules: ["virtio_pci", "virtio_blk", "ata_piix", "sd_mod"] })
  const v86 = { ...linuxOptions(initrd), acpi: argv.includes("acpi"), hda: { buffer: content.buffer } }
  const guest = await Guest.start({ v86, attach: (emulator) => {
    attachToV86(emulator, raw, { slot: 15 })
    attachToV86(emulator, qcow2, { slot: 16 })
  } })
  await guest.expect(/VIOBLK-READY/)
  const disks = [
    { name: "v86 IDE, in RAM", device: "sda" },
    { name: "vioblk, raw file", device: "vda" },
    { name: "vioblk, qcow2 file", device: "vdb" },
  ]
  console.log(`${"".padEnd(14)}${disks.map(({ name }) => name.padStart(34)).join("")}`)
  const chosen = await guest.command(`cat ${disks.map(({ device }) => `/sys/block/${device}/queue/scheduler`).join(" ")}`)
  console.log(`I/O scheduler, as Linux chooses it: ${[...chosen.matchAll(/\[(.*?)\]/g)].map(([, name]) => name).join(", ")}`)
  for (const row of ROWS) await measure(guest, row, disks)
  console.log("I/O scheduler: none for all")
  for (const { device } of disks) await guest.command(`echo none >/sys/block/${device}/queue/scheduler`)
  for (const row of ROWS) await measure(guest, row, disks)
  await guest.stop()
  raw.close()
  qcow2.close()
  context.close()
  process.exit()
}

/** Prints one row of the table. The disks take turns, so that a busy moment of the host affects them all. */
async function measure(guest: Guest, row: Row, disks: readonly { readonly device: string }[]): Promise<void> {
  const best = disks.map(() => ({ seconds: Infinity, instructions: Infinity }))
  for (let round = 0; round <= ROUNDS; round++) {
    for (const [index, { device }] of disks.entries()) {
      const result = await timed(guest, row.command(device))
      const known = best[index]
      if (round === 0 || known === undefined) continue
      known.seconds = Math.min(known.seconds, result.seconds)
      known.instructions = Math.min(known.instructions, result.instructions)
    }
  }
  const ide = best[0]?.seconds ?? NaN
  const cells = best.map(({ seconds, instructions }) => {
    const rate = row.requests > 1000
      ? `${((seconds * 1e6) / row.requests).toFixed(0)} us`
      : `${(row.bytes / MIB / seconds).toFixed(0)} MiB/s`
    return `${rate} ${(ide / seconds).toFixed(2)}x ${(instructions / row.requests / 1000).toFixed(1)}k instr.`.padStart(34)
  })
  console.log(`${row.name.padEnd(14)}${cells.join("")}`)
}

async function timed(guest: Guest, command: string): Promise<{ seconds: number; instructions: number }> {
  const instructions = guest.emulator.get_instruction_counter()
  const started = performance.now()
  await guest.command(`${command} 2>/dev/null`)
  return { seconds: (performance.now() - started) / 1000, instructions: (guest.emulator.get_instruction_counter() - instructions) >>> 0 }
}

if (argv.includes("http")) {
  const context = new GuestContext(() => undefined)
  console.log((await benchHttpBoot(context)).replaceAll("; ", "\n"))
  context.close()
  process.exit()
}
await main()
