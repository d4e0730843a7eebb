/** Our NBD client and our NBD server, over real sockets: TLS with certificates on both sides, and a server that is replaced. */
import { join } from "node:path"
import { expect, it, onTestFinished } from "vitest"
import { MemoryBacking, nbdDisk, NbdServer } from "../../src/index.ts"
import { Rng } from "../support/rng.ts"
import { temporaryDirectory } from "../support/temporary.ts"
import { itWithNbdServers, makeCertificates, readCertificate } from "./nbd-tools.ts"

itWithNbdServers("a client without a certificate that the server knows is refused over TLS", async () => {
  const folder = makeCertificates("localhost")
  const ca = readCertificate(folder, "ca-cert")
  const [cert, key] = [readCertificate(folder, "server-cert"), readCertificate(folder, "server-key")]
  const backing = new MemoryBacking({ size: 1 << 20 })
  const server = new NbdServer({ exports: [{ name: "disk", backing }], tls: { cert, key, ca } })
  onTestFinished(() => server.close())
  const address = await server.listen({ port: 0, host: "localhost" })
  if (!("port" in address)) throw new Error("no port")
  const uri = `nbds://localhost:${address.port}/disk`
  const disk = await nbdDisk(uri, { ca, cert, key })
  const data = new Rng(1).bytes(300_000)
  await disk.pwrite(data, 1000)
  const back = new Uint8Array(data.length)
  await disk.pread(back, 1000)
  expect(Buffer.compare(back, data)).toBe(0)
  await disk.close()
  await expect(nbdDisk(uri, { cert, key })).rejects.toMatchObject({ code: "permission" })
  await expect(nbdDisk(uri, { ca })).rejects.toThrow(/nbds:\/\/localhost/)
  await expect(nbdDisk(uri.replace("nbds", "nbd"))).rejects.toThrow(/TLS/)
})

it("clients do not notice a replaced server, and a closed server finishes the requests that it has", async () => {
  const backing = new MemoryBacking({ size: 1 << 20 })
  const socket = join(temporaryDirectory(), "socket")
  const start = async (): Promise<NbdServer> => {
    const server = new NbdServer({ exports: [{ backing }] })
    onTestFinished(() => server.close())
    await server.listen({ socket })
    return server
  }
  let server = await start()
  const disk = await nbdDisk(`nbd+unix:///?socket=${socket}`)
  onTestFinished(() => disk.close())
  const expected = new Uint8Array(1 << 20)
  const rng = new Rng(2)
  for (let round = 0; round < 5; round++) {
    const writes = Array.from({ length: 8 }, (_, index) => {
      const data = rng.bytes(20_000)
      expected.set(data, index * 65_536)
      return disk.pwrite(data, index * 65_536)
    })
    await server.close()
    server = await start()
    await Promise.all(writes)
  }
  await disk.flush?.()
  const content = new Uint8Array(1 << 20)
  backing.pread(content, 0)
  expect(Buffer.compare(content, expected)).toBe(0)
})
