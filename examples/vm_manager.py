import asyncio
import aiohttp

class VmManager:
    def __init__(self, api_base, token):
        self.api_base = api_base
        self.token = token
        self.headers = {'Authorization': f'Bearer {token}'}

    async def get_vms(self, filters=None):
        async with aiohttp.ClientSession() as session:
            params = filters or {}
            async with session.get(
                f'{self.api_base}/vms',
                headers=self.headers,
                params=params
            ) as response:
                return await response.json()

    async def create_vm(self, config):
        async with aiohttp.ClientSession() as session:
            async with session.post(
                f'{self.api_base}/vms',
                headers={**self.headers, 'Content-Type': 'application/json'},
                json=config
            ) as response:
                return await response.json()

    async def start_vm(self, vm_id):
        async with aiohttp.ClientSession() as session:
            async with session.post(
                f'{self.api_base}/vms/{vm_id}/start',
                headers=self.headers
            ) as response:
                return await response.json()

# 使用示例
async def main():
    vm_manager = VmManager('http://localhost:3000/api/v1', 'your-token')

    # 创建虚拟机
    new_vm = await vm_manager.create_vm({
        'name': 'web-server',
        'template': 'ubuntu20.04',
        'cpu': 2,
        'memory': 2048,
        'disk': 20
    })

    # 启动虚拟机
    await vm_manager.start_vm(new_vm['data']['id'])

asyncio.run(main())
