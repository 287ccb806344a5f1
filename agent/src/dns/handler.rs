//! From a question to an answer.

use super::SharedNames;
use arc_swap::ArcSwap;
use async_trait::async_trait;
use hickory_proto::{
    op::{Header, HeaderCounts, MessageType, Metadata, OpCode, ResponseCode},
    rr::{DNSClass, Name, RData, Record, RecordType, rdata},
};
use hickory_resolver::TokioResolver;
use hickory_server::{
    net::runtime::Time,
    server::{Request, RequestHandler, ResponseHandler, ResponseInfo},
    zone_handler::MessageResponseBuilder,
};
use muster_engine::net::Linked;
use muster_model::{net::Scope, view::Names};
use rand::seq::SliceRandom as _;
use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, Ipv6Addr},
    sync::Arc,
};

/// Clients that cache must not keep an address longer than a replaced task lives on elsewhere; Docker says 600, and
/// clients of dnsrr services suffer for it.
const TTL_S: u32 = 5;

/// What a container may ask for: the networks it is on, and what it alone calls others.
#[derive(Debug, Default)]
pub struct Tables {
    pub scopes: Vec<Scope>,
    /// Lower case.
    pub links: Vec<Linked>,
}

impl Tables {
    /// The tables that a link of this name leads to, with what the other is called there.
    fn linked<'a>(&'a self, name: &'a str) -> impl Iterator<Item = (&'a Scope, &'a str)> {
        self.links.iter().filter(move |link| link.alias == name).flat_map(|link| {
            let meant = self.scopes.iter().filter(|scope| link.scope.is_none_or(|only| only == **scope));
            meant.map(|scope| (scope, link.target.as_str()))
        })
    }
}

pub struct Handler {
    pub names: SharedNames,
    pub tables: Arc<ArcSwap<Tables>>,
    pub upstream: Option<TokioResolver>,
}

/// What is known of a name here.
#[derive(Debug, PartialEq, Eq)]
enum Known {
    /// It is one of ours. No addresses: it exists, and nobody answers for it now.
    Here(Vec<Ipv4Addr>),
    Elsewhere,
}

fn look(names: &Names, tables: &Tables, name: &str) -> Known {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let known = |(scope, name): (&Scope, &str)| names.get(scope)?.names.get(name);
    let together = |found: Vec<&Vec<Ipv4Addr>>| Known::Here(found.into_iter().flatten().copied().collect());
    // What a container calls another goes before what others are called.
    let linked: Vec<_> = tables.linked(&name).filter_map(known).collect();
    if !linked.is_empty() {
        return together(linked);
    }
    let found: Vec<_> = tables.scopes.iter().filter_map(|scope| known((scope, &name))).collect();
    if found.is_empty() { Known::Elsewhere } else { together(found) }
}

/// The IPv6 addresses of a name of ours.
fn look6(names: &Names, tables: &Tables, name: &str) -> Vec<Ipv6Addr> {
    let name = name.trim_end_matches('.').to_ascii_lowercase();
    let known = |(scope, name): (&Scope, &str)| names.get(scope)?.names6.get(name);
    let is_known = |(scope, name): &(&Scope, &str)| names.get(*scope).is_some_and(|t| t.names.contains_key(*name));
    // As with IPv4, and if what is linked has no IPv6: another of the same name is somebody else.
    let mut linked = tables.linked(&name).filter(is_known).peekable();
    if linked.peek().is_some() {
        return linked.filter_map(known).flatten().copied().collect();
    }
    tables.scopes.iter().filter_map(|scope| known((scope, &name))).flatten().copied().collect()
}

/// The name whose address an `in-addr.arpa` or `ip6.arpa` question asks for (RFC 1035, section 3.5; RFC 3596, section 2.5).
fn reverse(names: &Names, scopes: &[Scope], question: &str) -> Option<String> {
    let question = question.trim_end_matches('.').to_ascii_lowercase();
    let mut tables = scopes.iter().filter_map(|scope| names.get(scope));
    if let Some(labels) = question.strip_suffix(".ip6.arpa") {
        let digits: String = labels.split('.').filter(|l| l.len() == 1).rev().collect();
        let whole = labels.len() == 63 && digits.len() == 32;
        let ip = Ipv6Addr::from(u128::from_str_radix(&digits, 16).ok().filter(|_| whole)?);
        return tables.find_map(|t| named(&t.names6, &ip));
    }
    let octets = question.strip_suffix(".in-addr.arpa")?.split('.').rev().map(str::parse);
    let octets: Vec<u8> = octets.collect::<Result<_, _>>().ok()?;
    let ip = Ipv4Addr::from(<[u8; 4]>::try_from(octets).ok()?);
    tables.find_map(|t| named(&t.names, &ip))
}

fn named<A: PartialEq>(names: &BTreeMap<String, Vec<A>>, ip: &A) -> Option<String> {
    let is_it = |(name, ips): &(&String, &Vec<A>)| !name.starts_with("tasks.") && ips.contains(ip);
    names.iter().find(is_it).map(|(name, _)| name.clone())
}

impl Handler {
    async fn answer(&self, name: &Name, kind: RecordType) -> (ResponseCode, Vec<Record>) {
        let names = self.names.load_full();
        let tables = self.tables.load_full();
        let text = name.to_ascii();
        if kind == RecordType::PTR
            && let Some(found) = reverse(&names, &tables.scopes, &text)
            && let Ok(target) = Name::from_ascii(format!("{found}."))
        {
            return (
                ResponseCode::NoError,
                vec![Record::from_rdata(name.clone(), TTL_S, RData::PTR(rdata::PTR(target)))],
            );
        }
        match look(&names, &tables, &text) {
            Known::Here(mut ips) if kind == RecordType::A => {
                // Clients take the first: spread them.
                ips.shuffle(&mut rand::rng());
                let records =
                    ips.into_iter().map(|ip| Record::from_rdata(name.clone(), TTL_S, RData::A(rdata::A(ip)))).collect();
                (ResponseCode::NoError, records)
            }
            Known::Here(_) if kind == RecordType::AAAA => {
                let mut ips = look6(&names, &tables, &text);
                ips.shuffle(&mut rand::rng());
                let record = |ip| Record::from_rdata(name.clone(), TTL_S, RData::AAAA(rdata::AAAA(ip)));
                (ResponseCode::NoError, ips.into_iter().map(record).collect())
            }
            // The name is ours, other kinds of records it has none of: no error, no answers (RFC 2308, section 2.2).
            Known::Here(_) => (ResponseCode::NoError, Vec::new()),
            Known::Elsewhere => self.ask_upstream(name, kind).await,
        }
    }

    async fn ask_upstream(&self, name: &Name, kind: RecordType) -> (ResponseCode, Vec<Record>) {
        let Some(upstream) = &self.upstream else { return (ResponseCode::NXDomain, Vec::new()) };
        match upstream.lookup(name.clone(), kind).await {
            Ok(found) => (ResponseCode::NoError, found.answers().to_vec()),
            Err(e) if e.is_no_records_found() => {
                let code = if e.is_nx_domain() { ResponseCode::NXDomain } else { ResponseCode::NoError };
                (code, Vec::new())
            }
            Err(error) => {
                tracing::debug!(%error, "upstream name servers do not answer");
                (ResponseCode::ServFail, Vec::new())
            }
        }
    }
}

#[async_trait]
impl RequestHandler for Handler {
    async fn handle_request<R: ResponseHandler, T: Time>(&self, request: &Request, mut out: R) -> ResponseInfo {
        let (code, records) = match request.request_info() {
            Ok(info) if request.metadata.op_code == OpCode::Query && info.query.query_class() == DNSClass::IN => {
                let name = Name::from(info.query.name().clone());
                self.answer(&name, info.query.query_type()).await
            }
            Ok(_) => (ResponseCode::NotImp, Vec::new()),
            Err(_) => (ResponseCode::FormErr, Vec::new()),
        };
        let mut metadata = Metadata::response_from_request(&request.metadata);
        metadata.recursion_available = true;
        metadata.response_code = code;
        let none = || std::iter::empty::<&Record>();
        let response = MessageResponseBuilder::from_message_request(request).build(
            metadata,
            records.iter(),
            none(),
            none(),
            none(),
        );
        match out.send_response(response).await {
            Ok(info) => info,
            Err(error) => {
                // The client is gone.
                tracing::debug!(%error, "a DNS answer could not be sent");
                let mut metadata = Metadata::new(request.metadata.id, MessageType::Response, OpCode::Query);
                metadata.response_code = ResponseCode::ServFail;
                ResponseInfo::from(Header { metadata, counts: HeaderCounts::default() })
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use muster_model::view::NameTable;

    fn names() -> Names {
        let table = |name: &str, ip: [u8; 4]| NameTable {
            names: [(name.to_owned(), vec![Ipv4Addr::from(ip)])].into(),
            names6: [(name.to_owned(), vec![Ipv6Addr::new(0xfd00, 0, 0, 0, 0, 0, 0, ip[2].into())])].into(),
        };
        [(Scope::vni(1), table("web", [10, 0, 0, 2])), (Scope::vni(2), table("db", [10, 0, 1, 2]))].into()
    }

    #[test]
    fn a_name_is_seen_only_from_its_network() {
        let on = |scopes: &[Scope]| Tables { scopes: scopes.to_vec(), links: Vec::new() };
        assert_eq!(look(&names(), &on(&[Scope::vni(1)]), "WEB."), Known::Here(vec![Ipv4Addr::new(10, 0, 0, 2)]));
        assert_eq!(look(&names(), &on(&[Scope::vni(1)]), "db"), Known::Elsewhere);
        assert_eq!(look(&names(), &on(&[]), "web"), Known::Elsewhere);
    }

    #[test]
    fn a_link_is_known_to_its_container_on_its_network_and_goes_before_other_names() {
        let link = |alias: &str, target: &str, scope| Linked { alias: alias.into(), target: target.into(), scope };
        let tables = |links| Tables { scopes: vec![Scope::vni(1), Scope::vni(2)], links };
        let db = Known::Here(vec![Ipv4Addr::new(10, 0, 1, 2)]);
        assert_eq!(look(&names(), &tables(vec![link("store", "db", None)]), "Store."), db);
        assert_eq!(look(&names(), &tables(vec![link("web", "db", None)]), "web"), db);
        assert_eq!(look(&names(), &tables(vec![link("store", "db", Some(Scope::vni(2)))]), "store"), db);
        assert_eq!(look(&names(), &tables(vec![link("store", "db", Some(Scope::vni(1)))]), "store"), Known::Elsewhere);
        // What a link leads to has no IPv6: that is not asked of another of the same name.
        let mut both = names();
        let six: Ipv6Addr = "fd00::2".parse().expect("an address");
        both.get_mut(&Scope::vni(1)).expect("there").names6.insert("web".into(), vec![six]);
        both.get_mut(&Scope::vni(2)).expect("there").names6.remove("db");
        assert_eq!(look6(&both, &tables(vec![]), "web"), [six]);
        assert!(look6(&both, &tables(vec![link("web", "db", None)]), "web").is_empty());
        assert_eq!(look6(&both, &tables(vec![link("store", "web", None)]), "store"), [six]);
        // Nobody is called so yet: others may be.
        let web = Known::Here(vec![Ipv4Addr::new(10, 0, 0, 2)]);
        assert_eq!(look(&names(), &tables(vec![link("web", "gone", None)]), "web"), web);
    }

    #[test]
    fn an_address_leads_back_to_its_name() {
        assert_eq!(reverse(&names(), &[Scope::vni(1)], "2.0.0.10.in-addr.arpa."), Some("web".into()));
        for other in ["3.0.0.10.in-addr.arpa.", "0.10.in-addr.arpa.", "x.0.0.10.in-addr.arpa.", "web."] {
            assert_eq!(reverse(&names(), &[Scope::vni(1)], other), None, "{other}");
        }
        let zeros = "0.".repeat(27);
        assert_eq!(reverse(&names(), &[Scope::vni(2)], &format!("1.{zeros}0.0.D.F.ip6.arpa.")), Some("db".into()));
        for other in [format!("2.{zeros}0.0.d.f.ip6.arpa."), "1.0.ip6.arpa".into(), format!("é{zeros}0.0.d.f.ip6.arpa")]
        {
            assert_eq!(reverse(&names(), &[Scope::vni(2)], &other), None, "{other}");
        }
    }
}
