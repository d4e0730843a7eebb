/** blobFile over Node's Blob, and over one that fails as a browser's File does. */
import { Blob } from "node:buffer"
import { describe, expect, it } from "vitest"
import { BackingError } from "../../../src/backing/backing.ts"
import { blobFile, type BlobLike } from "../../../src/backing/sources/blob-file.ts"

const CONTENT = Uint8Array.from({ length: 1000 }, (_, at) => at * 3)

async function failureOf(work: Promise<unknown>): Promise<unknown> {
  return work.then(() => expect.fail("it did not fail"), (error: unknown) => error)
}

it("a read gives every byte of a Blob, and is short at its end", async () => {
  const file = blobFile(new Blob([CONTENT]))
  expect([file.path, file.readOnly, await file.size()]).toEqual(["blob", true, 1000])
  const buffer = new Uint8Array(100).fill(0xee)
  expect(await file.read(buffer, 500)).toBe(100)
  expect(buffer).toEqual(CONTENT.subarray(500, 600))
  expect(await file.read(buffer, 950)).toBe(50)
  expect(buffer.subarray(0, 50)).toEqual(CONTENT.subarray(950))
  expect(buffer.subarray(50)).toEqual(CONTENT.subarray(550, 600))
  expect(await file.read(buffer, 1000)).toBe(0)
  expect(await file.read(buffer, 5000)).toBe(0)
})

it("the path is the name of the File, or the one that was passed", () => {
  const named: BlobLike & { name: string } = Object.assign(new Blob([CONTENT]), { name: "disk.qcow2" })
  expect(blobFile(named).path).toBe("disk.qcow2")
  expect(blobFile(named, { name: "base" }).path).toBe("base")
})

it("a second close does nothing", async () => {
  const file = blobFile(new Blob([CONTENT]))
  const pending = failureOf(file.read(new Uint8Array(10), 0))
  await file.close()
  await file.close()
  for (const error of [await pending, await failureOf(file.size()), await failureOf(file.read(new Uint8Array(1), 0))]) {
    expect(error).toMatchObject({ code: "closed" })
  }
})

describe("a File that cannot be read", () => {
  const failing = (error: unknown): BlobLike => ({ size: 1000, slice: () => ({ arrayBuffer: () => Promise.reject(error) }) })

  it.each([
    [new DOMException("could not be read", "NotReadableError"), "io", /the file changed, or cannot be read any more.*pick the file again$/],
    [new DOMException("not found", "NotFoundError"), "not-found", /the file is gone since it was picked; pick the file again$/],
    [new DOMException("no", "SecurityError"), "permission", /the browser does not allow/],
    [new Error("plain"), "io", /the blob cannot be read: plain$/],
    ["thrown text", "io", /the blob cannot be read: thrown text$/],
  ])("%s", async (cause, code, message) => {
    const error = await failureOf(blobFile(failing(cause), { name: "disk.img" }).read(new Uint8Array(10), 20))
    expect(error).toBeInstanceOf(BackingError)
    expect(error).toMatchObject({ code, path: "disk.img", offset: 20, cause })
    expect((error as BackingError).message).toMatch(message)
  })

  it("fails a read when it throws at once or gives too few bytes", async () => {
    const throwing: BlobLike = { size: 10, slice: () => { throw new Error("revoked") } }
    expect(await failureOf(blobFile(throwing).read(new Uint8Array(10), 0))).toMatchObject({ code: "io" })
    const short: BlobLike = { size: 10, slice: () => ({ arrayBuffer: () => Promise.resolve(new ArrayBuffer(9)) }) }
    expect(await failureOf(blobFile(short).read(new Uint8Array(10), 0))).toMatchObject({ code: "io" })
  })
})

it("what is not a Blob is refused", () => {
  expect(() => blobFile("disk.img" as unknown as BlobLike)).toThrow("blobFile: the blob must implement Blob, not the string")
  expect(() => blobFile(new Blob([]), { nam: "x" } as object)).toThrow('did you mean "name"?')
})
