//! The table of all operations of the API.
//!
//! Literal paths stand before those with a name, longer suffixes before shorter ones: the first that fits is taken.

use crate::{
    attach, containers, files, images, logs, networks, refused,
    route::Route,
    swarm::{cluster, nodes, secrets, services, tasks},
    system, volumes, websocket,
};
use http::Method;

macro_rules! routes {
    ($($method:ident $pattern:literal => $handler:path;)*) => {
        vec![$(Route { method: Method::$method, pattern: $pattern, handler: |call| Box::pin($handler(call)) }),*]
    };
}

pub(crate) fn all() -> Vec<Route> {
    let mut routes = engine();
    routes.extend(swarm());
    routes
}

fn engine() -> Vec<Route> {
    routes! {
        GET "/_ping" => system::ping;
        HEAD "/_ping" => system::ping;
        GET "/version" => system::version;
        GET "/info" => system::info;
        GET "/events" => system::events;
        GET "/system/df" => system::disk_usage;
        POST "/auth" => system::auth;

        GET "/containers/json" => containers::list;
        POST "/containers/create" => containers::create;
        POST "/containers/prune" => containers::prune;
        GET "/containers/{name}/json" => containers::inspect;
        GET "/containers/{name}/top" => containers::top;
        GET "/containers/{name}/logs" => logs::container;
        GET "/containers/{name}/changes" => containers::changes;
        GET "/containers/{name}/export" => containers::export;
        GET "/containers/{name}/stats" => containers::stats;
        POST "/containers/{name}/resize" => containers::resize;
        POST "/containers/{name}/start" => containers::start;
        POST "/containers/{name}/stop" => containers::stop;
        POST "/containers/{name}/restart" => containers::restart;
        POST "/containers/{name}/kill" => containers::kill;
        POST "/containers/{name}/update" => containers::update;
        POST "/containers/{name}/rename" => containers::rename;
        POST "/containers/{name}/pause" => containers::pause;
        POST "/containers/{name}/unpause" => containers::unpause;
        POST "/containers/{name}/attach" => attach::attach;
        GET "/containers/{name}/attach/ws" => websocket::attach;
        POST "/containers/{name}/wait" => containers::wait;
        HEAD "/containers/{name}/archive" => files::stat;
        GET "/containers/{name}/archive" => files::get;
        PUT "/containers/{name}/archive" => files::put;
        POST "/containers/{name}/exec" => attach::exec_create;
        GET "/containers/{name}/checkpoints" => refused::checkpoint;
        POST "/containers/{name}/checkpoints" => refused::checkpoint;
        DELETE "/containers/{name}" => containers::remove;

        POST "/exec/{name}/start" => attach::exec_start;
        POST "/exec/{name}/resize" => attach::exec_resize;
        GET "/exec/{name}/json" => attach::exec_inspect;

        GET "/images/json" => images::list;
        GET "/images/search" => images::search;
        GET "/images/get" => images::save;
        POST "/images/create" => images::create;
        POST "/images/load" => images::load;
        POST "/images/prune" => images::prune;
        GET "/images/{name}/json" => images::inspect;
        GET "/images/{name}/history" => images::history;
        GET "/images/{name}/get" => images::save;
        POST "/images/{name}/push" => images::push;
        POST "/images/{name}/tag" => images::tag;
        DELETE "/images/{name}" => images::remove;
        POST "/commit" => images::commit;
        GET "/distribution/{name}/json" => images::distribution;

        POST "/build" => refused::build;
        POST "/build/prune" => refused::build_prune;
        POST "/build/cancel" => refused::build_cancel;
        POST "/session" => refused::session;
        POST "/grpc" => refused::grpc;

        GET "/networks" => networks::list;
        POST "/networks/create" => networks::create;
        POST "/networks/prune" => networks::prune;
        POST "/networks/{name}/connect" => networks::connect;
        POST "/networks/{name}/disconnect" => networks::disconnect;
        GET "/networks/{name}" => networks::inspect;
        DELETE "/networks/{name}" => networks::remove;

        GET "/volumes" => volumes::list;
        POST "/volumes/create" => volumes::create;
        POST "/volumes/prune" => volumes::prune;
        GET "/volumes/{name}" => volumes::inspect;
        PUT "/volumes/{name}" => refused::volume_update;
        DELETE "/volumes/{name}" => volumes::remove;

        GET "/plugins" => refused::plugin_list;
        GET "/plugins/privileges" => refused::plugin;
        POST "/plugins/pull" => refused::plugin;
        POST "/plugins/create" => refused::plugin;
        GET "/plugins/{name}/json" => refused::plugin_inspect;
        POST "/plugins/{name}/enable" => refused::plugin;
        POST "/plugins/{name}/disable" => refused::plugin;
        POST "/plugins/{name}/upgrade" => refused::plugin;
        POST "/plugins/{name}/push" => refused::plugin;
        POST "/plugins/{name}/set" => refused::plugin;
        DELETE "/plugins/{name}" => refused::plugin;
    }
}

fn swarm() -> Vec<Route> {
    routes! {
        GET "/swarm" => cluster::inspect;
        POST "/swarm/init" => cluster::init;
        POST "/swarm/join" => cluster::join;
        POST "/swarm/leave" => cluster::leave;
        POST "/swarm/update" => cluster::update;
        GET "/swarm/unlockkey" => refused::unlock_key;
        POST "/swarm/unlock" => refused::unlock;

        GET "/nodes" => nodes::list;
        POST "/nodes/{name}/update" => nodes::update;
        GET "/nodes/{name}" => nodes::inspect;
        DELETE "/nodes/{name}" => nodes::remove;

        GET "/services" => services::list;
        POST "/services/create" => services::create;
        POST "/services/{name}/update" => services::update;
        GET "/services/{name}/logs" => services::logs;
        GET "/services/{name}" => services::inspect;
        DELETE "/services/{name}" => services::remove;

        GET "/tasks" => tasks::list;
        GET "/tasks/{name}/logs" => tasks::logs;
        GET "/tasks/{name}" => tasks::inspect;

        GET "/secrets" => secrets::list;
        POST "/secrets/create" => refused::secret_create;
        POST "/secrets/{name}/update" => refused::secret_update;
        GET "/secrets/{name}" => secrets::no_secret;
        DELETE "/secrets/{name}" => secrets::no_secret;
        GET "/configs" => secrets::list;
        POST "/configs/create" => refused::config_create;
        POST "/configs/{name}/update" => refused::config_update;
        GET "/configs/{name}" => secrets::no_config;
        DELETE "/configs/{name}" => secrets::no_config;
    }
}
