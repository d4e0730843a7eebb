/** Snapshots of an encrypted image: taken by us, read by both, gone back to by QEMU. */
import { expect } from "vitest"
import { createImage } from "../../src/backing/create.ts"
import { openImage } from "../../src/backing/open.ts"
import { Qcow2Image } from "../../src/backing/qcow2/image.ts"
import { itWithQemu, qemuImg } from "../support/qemu.ts"
import { temporaryDirectory } from "../support/temporary.ts"
import { EncryptedByQemu } from "./encrypted-by-qemu.ts"

itWithQemu("QC-LUKS-04 QC-SNAP-06 a snapshot of a LUKS image keeps its content after writes, for us and for QEMU", () => {
  const qemu = new EncryptedByQemu(temporaryDirectory(), { format: "qcow2", options: "", size: undefined, passphrase: "abc" })
  createImage(qemu.path, { size: 1 << 20, encryption: { passphrase: "abc", cipher: "aes-128", iterTime: 1 } })
  const disk = openImage(qemu.path, { passphrase: "abc" })
  if (!(disk instanceof Qcow2Image)) throw new Error("not a qcow2 image")
  disk.pwrite(new Uint8Array(200_000).fill(1), 0)
  disk.snapshots.create({ name: "before" })
  disk.pwrite(new Uint8Array(70_000).fill(2), 50_000)
  disk.close()
  using snapshot = openImage(qemu.path, { passphrase: "abc", snapshot: "before", readOnly: true })
  const bytes = new Uint8Array(200_000)
  snapshot.pread(bytes, 0)
  expect(bytes.every((byte) => byte === 1)).toBe(true)
  snapshot.close()
  qemu.io("read -P 1 0 50000", "read -P 2 50000 70000", "read -P 1 120000 80000")
  qemuImg("snapshot", "--object", `secret,id=s,file=${qemu.secret}`, "--image-opts", "-a", "before", qemu.options)
  qemu.io("read -P 1 0 200000")
  expect(qemu.check()).toBe(0)
}, 60_000)
