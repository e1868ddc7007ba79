import { EtcdProcess } from './etcdprocess.ts'
import { registrySuite } from './registrysuite.ts'

registrySuite('a real etcd', () => EtcdProcess.start())
