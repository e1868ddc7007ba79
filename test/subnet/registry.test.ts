import { FakeEtcd } from '../fakes/etcd.ts'
import { registrySuite } from './registrysuite.ts'

registrySuite('the etcd in memory', async () => {
  const etcd = new FakeEtcd()
  await etcd.start()
  return {
    url: etcd.url,
    start: () => etcd.start(),
    stop: () => etcd.stop(),
    wipe: () => etcd.wipe(),
    remove: () => etcd.stop(),
  }
})
