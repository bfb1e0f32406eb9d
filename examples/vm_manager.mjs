class VmManager {
  constructor(apiBase, token) {
    this.apiBase = apiBase
    this.token = token
  }

  async getVms(filters = {}) {
    const params = new URLSearchParams(filters)
    const response = await fetch(`${this.apiBase}/vms?${params}`, {
      headers: { Authorization: `Bearer ${this.token}` },
    })
    return response.json()
  }

  async createVm(config) {
    const response = await fetch(`${this.apiBase}/vms`, {
      method: 'POST',
      headers: {
        Authorization: `Bearer ${this.token}`,
        'Content-Type': 'application/json',
      },
      body: JSON.stringify(config),
    })
    return response.json()
  }

  async startVm(vmId) {
    const response = await fetch(`${this.apiBase}/vms/${vmId}/start`, {
      method: 'POST',
      headers: { Authorization: `Bearer ${this.token}` },
    })
    return response.json()
  }
}

// 使用示例
const vmManager = new VmManager('http://localhost:3000/api/v1', 'your-token')

// 创建虚拟机
const newVm = await vmManager.createVm({
  name: 'web-server',
  template: 'ubuntu20.04',
  cpu: 2,
  memory: 2048,
  disk: 20,
})

// 启动虚拟机
await vmManager.startVm(newVm.data.id)
