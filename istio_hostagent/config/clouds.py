"""Where clouds tell a machine who it is, and give it credentials: one table, with sources.

What lies in the link-local networks 169.254.0.0/16 and fe80::/10 needs no row to be left alone; it
has one so that the table is complete. Not here: what is done with these addresses (`redirect`).
"""

from ipaddress import ip_address
from typing import NamedTuple

from . import model


class Service(NamedTuple):
    """One address of one cloud, and where it is documented."""

    cloud: str
    address: str
    source: str


SERVICES = (
    Service("Akamai (Linode)", "169.254.169.254", "techdocs.akamai.com: Metadata Service API"),
    Service("Akamai (Linode)", "fd00:a9fe:a9fe::1", "techdocs.akamai.com: Metadata Service API"),
    Service("Alibaba", "100.100.100.200", "alibabacloud.com: ECS, View instance metadata"),
    Service("Alibaba", "fd00:100::100:200", "alibabacloud.com: ECS, View instance metadata"),
    Service("Amazon", "169.254.169.254", "docs.aws.amazon.com: EC2, Access instance metadata"),
    Service("Amazon", "fd00:ec2::254", "docs.aws.amazon.com: EC2, Access instance metadata"),
    Service("Amazon, tasks of ECS", "169.254.170.2", "docs.aws.amazon.com: ECS, task IAM role"),
    Service("Amazon, pods of EKS", "169.254.170.23", "docs.aws.amazon.com: EKS, Pod Identity"),
    Service("Amazon, pods of EKS", "fd00:ec2::23", "docs.aws.amazon.com: EKS, Pod Identity"),
    Service("Azure", "169.254.169.254", "learn.microsoft.com: Azure Instance Metadata Service"),
    Service("Azure, DHCP, DNS and health", "168.63.129.16",
            "learn.microsoft.com: What is IP address 168.63.129.16?"),
    Service("DigitalOcean", "169.254.169.254", "docs.digitalocean.com: Metadata API"),
    Service("Exoscale", "169.254.169.254", "community.exoscale.com: Instance metadata"),
    Service("Google", "169.254.169.254", "cloud.google.com: Compute Engine, VM metadata"),
    Service("Google", "fd20:ce::254", "cloud.google.com: Compute Engine, VM metadata"),
    Service("Hetzner", "169.254.169.254", "docs.hetzner.cloud: Server metadata"),
    Service("Huawei", "169.254.169.254", "support.huaweicloud.com: ECS, Obtaining metadata"),
    Service("IBM", "169.254.169.254", "cloud.ibm.com/docs: VPC, instance metadata service"),
    Service("OpenStack", "169.254.169.254", "docs.openstack.org: Nova, Metadata service"),
    Service("OpenStack", "fe80::a9fe:a9fe", "docs.openstack.org: Nova, Metadata service"),
    Service("Oracle", "169.254.169.254", "docs.oracle.com: Getting instance metadata"),
    Service("Oracle", "fd00:c1::a9fe:a9fe", "docs.oracle.com: Getting instance metadata"),
    Service("Oracle, Classic", "192.0.0.192", "docs.oracle.com: Compute Classic, metadata"),
    Service("Scaleway", "169.254.42.42", "docs.cloud-init.io: Datasources, Scaleway"),
    Service("Scaleway", "fd00:42::42", "docs.cloud-init.io: Datasources, Scaleway"),
    Service("Tencent", "169.254.0.23", "cloud.tencent.com: CVM, Querying instance metadata"),
    Service("UpCloud", "169.254.169.254", "docs.cloud-init.io: Datasources, UpCloud"),
    Service("Volcano Engine", "100.96.0.96", "volcengine.com: ECS, instance metadata"),
    Service("Vultr", "169.254.169.254", "docs.cloud-init.io: Datasources, Vultr"),
)  # fmt: skip


def addresses(version: int) -> tuple[model.Address, ...]:
    """Each address of one IP version once, ascending."""
    found = {ip_address(service.address) for service in SERVICES}
    return tuple(sorted((each for each in found if each.version == version), key=int))
