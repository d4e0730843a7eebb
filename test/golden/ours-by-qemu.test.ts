/** The golden images of each feature, as QEMU reads them. */
import { readFileSync, writeFileSync } from "node:fs"
import { join } from "node:path"
import { describe, expect } from "vitest"
import { copyOurs, GOLDEN_PASSPHRASE, ourGoldens } from "./ours.ts"
import { sha256 } from "../support/golden.ts"
import { itWithQemu, qemuImg } from "../support/qemu.ts"
import { temporaryDirectory } from "../support/temporary.ts"

describe("golden images of each feature in QEMU", () => {
  for (const golden of ourGoldens) {
    itWithQemu(`QC-SNAP-01 QC-BMP-04 QC-DF-07 QC-EL2-03 QC-LUKS-04 ${golden.file} (${golden.about}) has the content that we read`, () => {
      const directory = temporaryDirectory()
      const path = copyOurs(golden, directory)
      const secret = join(directory, "secret")
      writeFileSync(secret, GOLDEN_PASSPHRASE)
      const data = golden.file.includes("data-file") ? `,data-file.filename=${path.replace(/qcow2$/, "raw")}` : ""
      const image = [
        ...(golden.isEncrypted ? ["--object", `secret,id=s,file=${secret}`] : []), "--image-opts",
        `driver=qcow2,file.filename=${path}${data}${golden.isEncrypted ? ",encrypt.key-secret=s" : ""}`,
      ]
      const raw = join(directory, "content")
      const read = (...words: string[]): Buffer => {
        qemuImg("convert", ...words, ...image.slice(0, -1), "-O", "raw", image.at(-1) ?? "", raw)
        return readFileSync(raw)
      }
      const content = read()
      expect({ size: content.length, sha256: sha256(content) }).toEqual({ size: golden.size, sha256: golden.sha256 })
      for (const { name, size, sha256: hash } of golden.snapshots) {
        // QEMU gives it the size that the disk has now.
        expect(sha256(read("-l", `snapshot.name=${name}`).subarray(0, size)), name).toBe(hash)
      }
      expect(qemuImg("check", ...image)).toContain("No errors were found")
      const info = JSON.parse(qemuImg("info", "--output=json", ...image))
      const bitmaps = golden.bitmaps.map(({ name, granularity }) => ({ name, granularity }))
      expect(info["format-specific"].data.bitmaps ?? []).toMatchObject(bitmaps)
    })
  }
})
