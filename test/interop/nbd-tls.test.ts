/** TLS of the NBD server against clients that misuse it: the server must outlive every one of them, and tell the operator. */
import { spawn } from "node:child_process"
import { once } from "node:events"
import { readFileSync } from "node:fs"
import { connect } from "node:net"
import { join } from "node:path"
import { connect as connectTls } from "node:tls"
import { setImmediate as turn } from "node:timers/promises"
import { describe, expect, onTestFinished } from "vitest"
import { createImage } from "../../src/backing/create.ts"
import { MemoryBacking } from "../../src/backing/memory.ts"
import { expectSame, info, NbdClient, OPT, REP_ERR, u32 } from "../support/nbd/client.ts"
import { serve, type TestServer } from "../support/nbd/server.ts"
import { type Certificates, itWithNbdTools, makeCertificates, tool } from "../support/nbd/tools.ts"
import { Rng } from "../support/rng.ts"
import { temporaryDirectory } from "../support/temporary.ts"

const pem = (file: string): string => readFileSync(file, "utf8")

async function secured(options: { readonly ca: boolean }): Promise<{ readonly server: TestServer; readonly certificates: Certificates }> {
  const certificates = await makeCertificates(temporaryDirectory())
  const tls = {
    cert: pem(certificates.serverCert), key: pem(certificates.serverKey), ...(options.ca && { ca: pem(certificates.ca) }),
  }
  const backing = new MemoryBacking({ size: 1 << 20 })
  return { server: await serve({ exports: [{ backing }], tls }), certificates }
}

/** A client that has said STARTTLS and heard that it may begin. */
async function beforeTls({ path }: TestServer): Promise<NbdClient> {
  const client = await NbdClient.connect({ path })
  await client.greet()
  await client.option(OPT.starttls)
  return client
}

describe("vioblk serve", () => {
  itWithNbdTools("takes certificates from files, and libnbd connects to the printed address with its own certificate only", async () => {
    const { directory, ca, serverCert, serverKey } = await makeCertificates(temporaryDirectory())
    const image = join(directory, "disk.qcow2")
    createImage(image, { size: 3 << 20 })
    const words = [image, "--port", "0", "--host", "localhost", "--tls-cert", serverCert, "--tls-key", serverKey, "--tls-ca", ca]
    const child = spawn(process.execPath, ["--import", "tsx", "src/vmm/cli/main.ts", "serve", ...words], {
      stdio: ["ignore", "pipe", "ignore"],
    })
    onTestFinished(() => void child.kill("SIGKILL"))
    const line = String((await once(child.stdout, "data"))[0])
    const uri = / at (nbds:\/\/\S+)$/m.exec(line)?.[1] ?? line
    const info = await tool("nbdinfo", "--json", `${uri}?tls-certificates=${directory}&tls-hostname=localhost`)
    expect(JSON.parse(info)).toMatchObject({ TLS: true, exports: [{ "export-size": 3 << 20 }] })
    await expect(tool("nbdinfo", `${uri}?tls-verify-peer=false`)).rejects.toThrow("nbdinfo")
    child.kill("SIGTERM")
    expect((await once(child, "exit"))[0]).toBe(0)
  })
})

describe("TLS", () => {
  itWithNbdTools("must come before any other option, and begins only once", async () => {
    const { server, certificates } = await secured({ ca: false })
    const client = await NbdClient.connect({ path: server.path })
    await client.greet()
    for (const option of [OPT.list, OPT.info, OPT.go, OPT.structuredReply, 77]) {
      expect((await client.option(option, info(""))).at(-1)?.error).toBe(REP_ERR.tlsReqd)
    }
    await client.startTls({ ca: pem(certificates.ca) })
    expect((await client.option(OPT.starttls)).at(-1)?.error).toBe(REP_ERR.invalid)
    // What was agreed on before does not count; the rest goes on over TLS.
    expect((await client.option(OPT.go, info(""))).at(-1)?.error).toBeUndefined()
    expect(await client.perform({ type: 1, offset: 5, length: 100_000, payload: Buffer.alloc(100_000, 3) })).toBe(0)
    expectSame(await client.readDisk(4, 100_002), Buffer.concat([Buffer.alloc(1), Buffer.alloc(100_000, 3), Buffer.alloc(1)]))
    const plain = await NbdClient.connect({ path: server.path })
    await plain.greet()
    plain.sendOption(OPT.exportName)
    await plain.rest()
    expect(server.errors).toEqual([expect.stringContaining("an export was chosen without TLS")])
  })

  itWithNbdTools("breaks off when unencrypted bytes follow STARTTLS", async () => {
    const { server } = await secured({ ca: false })
    const client = await NbdClient.connect({ path: server.path })
    await client.greet()
    client.send(Buffer.from("IHAVEOPT"), u32(OPT.starttls, 0), Buffer.from("IHAVEOPT"), u32(OPT.structuredReply, 0))
    await client.rest()
    expect(server.errors).toEqual([expect.stringContaining("before TLS began")])
  })

  itWithNbdTools("leaves the server at work after garbage, an end of the connection or nothing in place of its handshake", async () => {
    const { server, certificates } = await secured({ ca: true })
    for (let round = 0; round < 8; round++) {
      const client = await beforeTls(server)
      if (round % 4 === 0) client.send(new Rng(round).bytes(500))
      else if (round % 4 === 1) client.endWriting()
      // The beginning of a ClientHello.
      else if (round % 4 === 2) client.send(Buffer.from("16030100f8010000f40303", "hex"))
      client.destroy()
    }
    const { clientCert, clientKey, ca } = certificates
    const good = await NbdClient.connect({ path: server.path })
    await good.greet()
    await good.startTls({ ca: pem(ca), cert: pem(clientCert), key: pem(clientKey) })
    expect((await good.option(OPT.go, info(""))).at(-1)?.error).toBeUndefined()
    while (server.server.clients > 1) await turn()
  })

  itWithNbdTools("sends nothing to a client without a certificate, or with one of another authority", async () => {
    const { server, certificates } = await secured({ ca: true })
    const stranger = await makeCertificates(temporaryDirectory())
    const ca = pem(certificates.ca)
    for (let round = 0; round < 10; round++) {
      const socket = connect(server.path)
      socket.on("error", () => {})
      await once(socket, "connect")
      socket.write(Buffer.concat([u32(3), Buffer.from("IHAVEOPT"), u32(OPT.starttls, 0)]))
      // Greeting and acknowledgement.
      for (let got = 0; got < 38;) got += ((await once(socket, "data"))[0] as Buffer).length
      const mine = round % 2 === 0 ? {} : { cert: pem(stranger.clientCert), key: pem(stranger.clientKey) }
      const secure = connectTls({ socket, ca, servername: "localhost", ...mine })
      let heard = 0
      secure.on("data", (bytes: Buffer) => void (heard += bytes.length)).on("error", () => {})
      secure.write(Buffer.concat([Buffer.from("IHAVEOPT"), u32(OPT.list, 0)]))
      await once(secure, "close")
      expect(heard).toBe(0)
    }
    while (server.server.clients > 0) await turn()
    expect(server.errors.length).toBe(10)
    expect(server.errors.every((text) => /certificate/.test(text))).toBe(true)
  })

  itWithNbdTools("lets a server close in the middle of the handshake", async () => {
    for (let round = 0; round < 3; round++) {
      const { server, certificates } = await secured({ ca: false })
      const client = await beforeTls(server)
      const begun = client.startTls({ ca: pem(certificates.ca) }).catch(() => undefined)
      for (let count = 0; count < round; count++) await turn()
      await server.server.close()
      expect(server.server.clients).toBe(0)
      client.destroy()
      void begun
    }
  })
})
