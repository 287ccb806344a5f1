//! What goes wrong, and its end.

use crate::check::Broken;
use crate::net::Quality;
use crate::rng::Rng;
use crate::runtime::Step;
use crate::time::{MS, SECOND, Time};
use crate::world::{Event, FOUNDED, World, trace};

/// One thing that goes wrong.
#[derive(Clone, Debug)]
pub enum Fault {
    Crash {
        host: usize,
        power: bool,
    },
    Boot {
        host: usize,
    },
    /// The hosts with a bit set hear nothing from the others, and with `both` the others nothing from them.
    Part {
        side: u64,
        both: bool,
    },
    Join,
    Quality(Quality),
    ClockJump {
        host: usize,
        wall_ms: i64,
    },
    DiskStall {
        host: usize,
        for_us: Time,
    },
    BreakSession {
        host: usize,
    },
    /// A container ends by itself.
    Exit {
        host: usize,
        code: i32,
    },
    /// The next time that the host's disk is busy.
    CrashInWrite {
        host: usize,
        power: bool,
    },
    /// The host that leads, whoever that is then.
    CrashLeader {
        power: bool,
    },
    PartLeader,
}

/// A schedule of faults between the founding and `heal_at`.
pub fn draw(rng: &mut Rng, hosts: usize, heal_at: Time) -> Vec<(Time, Fault)> {
    let mut out = vec![(FOUNDED, Fault::Quality(quality(rng)))];
    let kinds = rng.between(2, 8);
    for _ in 0..kinds {
        let at = rng.between(FOUNDED, heal_at);
        let until = at + rng.between(100, 6000) * MS;
        let host = rng.below(hosts as u64) as usize;
        match rng.below(100) {
            0..=9 => {
                out.push((at, Fault::CrashInWrite { host, power: rng.percent(40) }));
                out.push((until, Fault::Boot { host }));
            }
            10..=24 => {
                out.push((at, Fault::Crash { host, power: rng.percent(40) }));
                out.push((until, Fault::Boot { host }));
            }
            25..=39 => out.push((at, Fault::CrashLeader { power: rng.percent(40) })),
            40..=54 => {
                out.push((at, Fault::Part { side: rng.draw(), both: rng.percent(70) }));
                out.push((until, Fault::Join));
            }
            55..=64 => {
                out.push((at, Fault::PartLeader));
                out.push((until, Fault::Join));
            }
            65..=72 => out.push((at, Fault::Quality(quality(rng)))),
            73..=79 => {
                out.push((at, Fault::ClockJump { host, wall_ms: rng.between(0, 20_000) as i64 - 10_000 }));
            }
            80..=87 => out.push((at, Fault::DiskStall { host, for_us: rng.between(200, 3000) * MS })),
            88..=93 => out.push((at, Fault::BreakSession { host })),
            _ => out.push((at, Fault::Exit { host, code: rng.below(3) as i32 })),
        }
    }
    out
}

fn quality(rng: &mut Rng) -> Quality {
    Quality {
        loss: *rng.pick(&[0, 0, 10_000, 50_000, 200_000]),
        doubling: *rng.pick(&[0, 10_000, 100_000]),
        jitter: *rng.pick(&[0, 10 * MS, 100 * MS, 400 * MS]),
    }
}

impl World {
    pub(crate) fn fault(&mut self, fault: Fault) -> Result<(), Broken> {
        if self.healed {
            return Ok(());
        }
        trace!(self, "fault: {fault:?}");
        let leader = || {
            (0..self.hosts.len())
                .find(|at| self.hosts[*at].manager.as_ref().is_some_and(|half| half.consensus.is_leader()))
        };
        match fault {
            Fault::Crash { host, power } => self.crash(host, power),
            Fault::CrashInWrite { host, power } => self.hosts[host].crash_in_write = Some(power),
            Fault::CrashLeader { power } => {
                if let Some(host) = leader() {
                    self.crash(host, power);
                    let away = self.rng.between(50, 6000) * MS;
                    self.after(away, Event::Fault(Fault::Boot { host }));
                }
            }
            Fault::Boot { host } if !self.hosts[host].up => self.boot(host)?,
            Fault::Boot { .. } => {}
            Fault::Part { side, both } => self.part(side, both),
            Fault::PartLeader => {
                if let Some(host) = leader() {
                    self.part(1 << host, true);
                }
            }
            Fault::Join => self.net.heal(),
            Fault::Quality(quality) => self.net.quality = quality,
            Fault::ClockJump { host, wall_ms } => self.hosts[host].clock.wall_ms += wall_ms,
            Fault::DiskStall { host, for_us } => self.hosts[host].stalled_until = self.now + for_us,
            Fault::BreakSession { host } => self.break_session(host),
            Fault::Exit { host, code } => {
                let running: Vec<_> = self.hosts[host].runtime.running().collect();
                if let Some(task) = running.first() {
                    self.after(MS, Event::Container { host, life: None, task: *task, step: Step::Exit { code } });
                }
            }
        }
        Ok(())
    }

    fn part(&mut self, side: u64, both: bool) {
        for from in 0..self.hosts.len() {
            for to in 0..self.hosts.len() {
                let (a, b) = (side >> from & 1, side >> to & 1);
                if a == 1 && b == 0 {
                    self.net.cut_one_way(to, from);
                    if both {
                        self.net.cut_one_way(from, to);
                    }
                }
            }
        }
    }

    /// Everything works again.
    pub(crate) fn heal(&mut self) -> Result<(), Broken> {
        trace!(self, "all is well again");
        self.healed = true;
        self.net.heal();
        self.net.quality = Quality::default();
        for host in 0..self.hosts.len() {
            self.hosts[host].stalled_until = 0;
            self.hosts[host].crash_in_write = None;
            if !self.hosts[host].up {
                self.boot(host)?;
            }
        }
        self.after(SECOND, Event::Settle);
        Ok(())
    }
}
