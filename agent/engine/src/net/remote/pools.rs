//! What is asked of an address plugin (libnetwork, "IPAM Driver").

use super::{
    IPAM_DRIVER, Pool,
    driver::{Cidr, MAC_ADDRESS, cidr},
    settle::heard,
};
use crate::{
    net::{NetworkRecord, Networks},
    plugin::{Plugins, Wait},
};
use muster_calls::{Error, Kind, Result};
use muster_model::{
    engine::{IpamConfig, Strings},
    net::{Mac, Subnet, Subnet6},
};
use serde::{Deserialize, de::DeserializeOwned};
use serde_json::{Value, json};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// Why an address is wanted, and what for (libnetwork, `ipamapi`, `netlabel`).
const ADDRESS_TYPE: &str = "RequestAddressType";
const GATEWAY: &str = "com.docker.network.gateway";

/// One plugin that gives addresses.
pub(super) struct Pools<'a> {
    plugins: &'a Plugins,
    name: &'a str,
}

#[derive(Deserialize)]
struct Nothing {}

#[derive(Default, Deserialize)]
#[serde(default)]
struct Able {
    #[serde(rename = "RequiresMACAddress")]
    wants_mac: bool,
}

#[derive(Deserialize)]
struct Spaces {
    #[serde(rename = "LocalDefaultAddressSpace", default)]
    local: String,
}

#[derive(Deserialize)]
struct Given {
    #[serde(rename = "PoolID", default)]
    id: String,
    #[serde(rename = "Pool", default)]
    pool: String,
    #[serde(rename = "Data", default)]
    data: Option<Strings>,
}

#[derive(Deserialize)]
struct Address {
    #[serde(rename = "Address", default)]
    address: String,
}

/// A pool that a network got.
struct Leased<T> {
    subnet: Cidr<T>,
    gateway: T,
}

impl<'a> Pools<'a> {
    pub fn new(plugins: &'a Plugins, name: &'a str) -> Self {
        Self { plugins, name }
    }

    async fn ask<T: DeserializeOwned>(&self, method: &str, request: Value, wait: Wait) -> Result<T> {
        self.plugins.call(self.name, &format!("{IPAM_DRIVER}.{method}"), &request, wait).await
    }

    fn bad(&self, method: &str, what: &str) -> Error {
        Error::internal(format!("plugin {}: {IPAM_DRIVER}.{method}: {what}", self.name))
    }

    /// Leases the pools of a new network and notes them in its record, on the disk too as soon as one is had. After an error
    /// the record says which are leased all the same.
    ///
    /// # Errors
    /// `NotFound`, in Docker's words, when there is no such plugin; what it says.
    pub async fn lease(
        &self,
        networks: &Networks,
        record: &mut NetworkRecord,
        four: &IpamConfig,
        six: Option<&IpamConfig>,
    ) -> Result<()> {
        let name = self.name;
        self.plugins.find(name, IPAM_DRIVER).await.map(drop).map_err(|e| match e.kind {
            Kind::NotFound | Kind::Invalid => {
                Error::not_found(format!("could not find plugin {name} in v1 plugin registry: plugin not found"))
            }
            _ => e,
        })?;
        let spaces: Spaces = self.ask("GetDefaultAddressSpaces", json!({}), Wait::Long).await?;
        record.unsettled = true;
        let space = spaces.local.as_str();
        let (pool, given) = self.request(space, four, false, record).await?;
        record.pool = Some(pool.clone());
        networks.write(record).await?;
        let got = self.fill::<Ipv4Addr>(four, given, record.pool.get_or_insert(pool)).await?;
        let whole = Subnet::containing(got.subnet.0, got.subnet.1);
        (record.subnet, record.gateway) = (Some(whole), Some(got.gateway));
        if !whole.contains(got.gateway) {
            return Err(self.bad("RequestAddress", &format!("gateway {} is not in {whole}", got.gateway)));
        }
        record.subnet_given = !four.subnet.is_empty();
        record.auxiliary.clone_from(&four.auxiliary_addresses);
        record.ip_range = four.ip_range.parse().ok();
        let Some(six) = six else { return Ok(()) };
        let (pool, given) = self.request(space, six, true, record).await?;
        record.pool6 = Some(pool.clone());
        networks.write(record).await?;
        let got = self.fill::<Ipv6Addr>(six, given, record.pool6.get_or_insert(pool)).await?;
        let whole = Subnet6::containing(got.subnet.0, got.subnet.1);
        (record.subnet6, record.gateway6) = (Some(whole), Some(got.gateway));
        if !whole.contains(got.gateway) {
            return Err(self.bad("RequestAddress", &format!("gateway {} is not in {whole}", got.gateway)));
        }
        record.subnet6_given = !six.subnet.is_empty();
        record.auxiliary6.clone_from(&six.auxiliary_addresses);
        record.ip_range6 = six.ip_range.parse().ok();
        Ok(())
    }

    /// Leases one pool.
    async fn request(
        &self,
        space: &str,
        config: &IpamConfig,
        v6: bool,
        record: &NetworkRecord,
    ) -> Result<(Pool, Given)> {
        let request = json!({
            "AddressSpace": space, "Pool": config.subnet, "SubPool": config.ip_range,
            "Options": record.ipam_options.clone().unwrap_or_default(), "V6": v6,
        });
        let given: Given = self.ask("RequestPool", request, Wait::Long).await?;
        Ok((Pool { id: given.id.clone(), space: space.to_owned(), held: Vec::new() }, given))
    }

    /// Takes the gateway and the auxiliary addresses of a pool, which says at each moment what is to be given back.
    async fn fill<T>(&self, config: &IpamConfig, given: Given, pool: &mut Pool) -> Result<Leased<T>>
    where
        T: std::str::FromStr + Into<IpAddr> + Copy,
    {
        let subnet: Cidr<T> = cidr(&given.pool).map_err(|e| self.bad("RequestPool", &e))?;
        let offered = given.data.and_then(|data| data.get(GATEWAY).cloned());
        let gateway = match offered {
            Some(text) if config.gateway.is_empty() => {
                cidr::<T>(&text).map_err(|e| self.bad("RequestPool", &format!("Data, {GATEWAY}: {e}")))?.0
            }
            _ => {
                let why = [(ADDRESS_TYPE.to_owned(), GATEWAY.to_owned())].into();
                let ip = self.take::<T>(&pool.id, &config.gateway, &why).await?.0;
                pool.held.push(ip.into());
                ip
            }
        };
        for ip in config.auxiliary_addresses.values() {
            let ip = self.take::<T>(&pool.id, ip, &Strings::new()).await?.0;
            pool.held.push(ip.into());
        }
        Ok(Leased { subnet, gateway })
    }

    /// Takes an address of a pool; empty for any.
    pub async fn take<T>(&self, pool: &str, wanted: &str, options: &Strings) -> Result<Cidr<T>>
    where
        T: std::str::FromStr + Into<IpAddr> + Copy,
    {
        let request = json!({ "PoolID": pool, "Address": wanted, "Options": options });
        let given: Address = self.ask("RequestAddress", request, Wait::Long).await?;
        cidr(&given.address).map_err(|e| self.bad("RequestAddress", &e))
    }

    /// What an address for a container is asked with. A plugin that wants to know hardware addresses gets one drawn.
    pub async fn options_for(&self, mac: &mut Option<Mac>) -> Result<Strings> {
        let able = match self.ask::<Able>("GetCapabilities", json!({}), Wait::Long).await {
            // It need not know the method.
            Err(e) if e.kind == Kind::NotFound => Able::default(),
            other => other?,
        };
        if !able.wants_mac {
            return Ok(mac.map(|m| (MAC_ADDRESS.to_owned(), m.to_string())).into_iter().collect());
        }
        let mac = *mac.get_or_insert_with(draw_mac);
        Ok([(MAC_ADDRESS.to_owned(), mac.to_string())].into())
    }

    pub async fn give_back(&self, pool: &str, ip: IpAddr) -> Result<()> {
        let request = json!({ "PoolID": pool, "Address": ip.to_string() });
        self.ask::<Nothing>("ReleaseAddress", request, Wait::Short).await.map(drop)
    }

    /// Gives back what a network leased, and takes it out of the record as it goes; what the plugin says against it goes into
    /// the log.
    ///
    /// # Errors
    /// When it does not answer: the record says what is still leased, as far as is known.
    pub async fn end_leases(&self, record: &mut NetworkRecord) -> Result<()> {
        for leased in [&mut record.pool, &mut record.pool6] {
            let Some(pool) = leased else { continue };
            while let Some(ip) = pool.held.last() {
                heard(self.give_back(&pool.id, *ip).await)?;
                pool.held.pop();
            }
            let request = json!({ "PoolID": pool.id });
            heard(self.ask::<Nothing>("ReleasePool", request, Wait::Short).await.map(drop))?;
            *leased = None;
        }
        Ok(())
    }
}

/// An address of nobody's: locally administered, of one machine.
fn draw_mac() -> Mac {
    let mut bytes: [u8; 6] = rand::random();
    bytes[0] = (bytes[0] & 0xfc) | 0x02;
    Mac(bytes)
}
