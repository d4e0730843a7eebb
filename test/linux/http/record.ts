/**
 * Writes down what a guest reads while it boots, for test/backing/paging/boot-reads.test.ts: `tsx test/linux/http/record.ts FILE`. Each
 * line is a read of the disk that BIOS, GRUB, Linux or a program in the guest waited for: offset and length in bytes.
 */
import { statSync, writeFileSync } from "node:fs"
import { HostFile } from "../../../src/backing/host/host-file.ts"
import { RawBacking } from "../../../src/backing/raw.ts"
import type { VirtioBacking } from "../../../src/backing/backing.ts"
import { attachToV86 } from "../../../src/vmm/v86/attach.ts"
import { GuestContext } from "../suite.ts"
import { boot, bootDisk } from "./boot.ts"

const context = new GuestContext(() => undefined)
const path = bootDisk(context)
const disk = new RawBacking(new HostFile(path))
const reads: string[] = []
/** It answers later, as a disk over HTTP does: the guest waits for each read. */
const recorded: VirtioBacking = {
  size: disk.size, readOnly: true, asynchronous: true,
  async pread(buffer, offset) {
    await new Promise((resolve) => setImmediate(resolve))
    reads.push(`${offset} ${buffer.length}`)
    disk.pread(buffer, offset)
  },
  async pwrite() {
    throw new Error("the disk is read-only")
  },
  close: () => disk.close(),
}
await boot(context, { attach: (emulator) => attachToV86(emulator, recorded) }, "vda1")
writeFileSync(process.argv[2] ?? "boot-reads.txt", `# size ${statSync(path).size}\n${reads.join("\n")}\n`)
context.close()
process.exit()
