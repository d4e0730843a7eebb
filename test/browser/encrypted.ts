/** Encrypted images in a real browser: what Node makes a page reads and writes, and what a page makes Node does. */
import { writeFileSync } from "node:fs"
import { createImage } from "../../src/backing/create.ts"
import { openImage } from "../../src/backing/open.ts"
import { matches, same } from "../linux/suite.ts"
import { quiet } from "./opfs.ts"
import { type BrowserContext, type BrowserTest, call } from "./suite.ts"

interface Answer {
  readonly sum: number
  readonly written: string
  readonly made: string
}

async function encrypted(context: BrowserContext): Promise<string> {
  const passphrase = "open sesame"
  const path = context.path("luks.qcow2")
  createImage(path, { size: 1 << 20, encryption: { passphrase, cipher: "aes-256", iterTime: 100 } })
  const disk = openImage(path, { passphrase })
  disk.pwrite(new Uint8Array(5000).fill(7), 777)
  disk.close()
  const page = await context.page("blank.html")
  const answer = await call(page, "encrypted", "readAndWrite", passphrase) as Answer
  same(answer.sum, 7 * 5000, "sum of what the page reads")
  for (const [name, content] of [["written", answer.written], ["made", answer.made]] as const) {
    const copy = context.path(`${name}.qcow2`)
    writeFileSync(copy, Buffer.from(content, "base64"))
    using opened = openImage(copy, { passphrase, readOnly: true })
    const bytes = new Uint8Array(opened.size)
    opened.pread(bytes, 0)
    const wanted = new Uint8Array(opened.size).fill(9, 100_001, 103_001)
    if (name === "written") wanted.fill(7, 777, 5777)
    same(Buffer.from(bytes).equals(wanted), true, `the image that the page has ${name} holds what it wrote`)
  }
  matches(String(await call(page, "encrypted", "wrongPassphrase")), /the passphrase is wrong/, "a wrong passphrase")
  quiet(page)
  return "a page read an encrypted image over HTTP, wrote it, and made one; Node read both"
}

export const encryptionTests: readonly BrowserTest[] = [
  { name: "encrypted", title: "encrypted images, by the page's own cryptography", limit: 120, run: encrypted },
]
