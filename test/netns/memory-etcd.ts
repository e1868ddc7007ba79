/**
 * The in-memory etcd where no real one can be had, in the place of the program `etcd`: run in the member's folder and
 * namespace, it serves `host:port` and the unix socket that `etcd.ts` talks to.
 */
import { connect, createServer, type Socket } from 'node:net'
import { FakeEtcd } from '../fakes/etcd.ts'

const [host = '', port, socketPath = ''] = process.argv.slice(2)
const fake = new FakeEtcd()
fake.intercept = (request, response) => {
  if (request.url !== '/health') return false
  response.end('{"health":"true"}')
  return true
}
await fake.start()
const target = Number(new URL(fake.url).port)

function forward(client: Socket): void {
  const server = connect(target, '127.0.0.1')
  client.on('error', () => server.destroy()).pipe(server)
  server.on('error', () => client.destroy()).pipe(client)
}

createServer(forward).listen(Number(port), host)
createServer(forward).listen(socketPath)
