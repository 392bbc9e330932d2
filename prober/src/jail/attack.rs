//! A row of the tables: an attack, in which programs it is tried, and how it must end in each stage.

use super::World;
use crate::calls::Tried;
use crate::wire::{Case, End, Expected, Group, Stage};

/// An attack from inside a jail.
pub(crate) struct Attack {
    pub(crate) name: &'static str,
    tries: &'static str,
    why: &'static str,
    pub(crate) run: fn(&World) -> Tried,
    /// In which programs' places.
    programs: &'static [Group],
    /// Where no filter is: nothing if the filters alone keep it.
    bare: Vec<End>,
    /// Stages with ends of their own; none: it is not tried there.
    own: Vec<(Group, Stage, Vec<End>)>,
    alone: bool,
}

pub(super) const VMM: &[Group] = &[Group::Vmm];
pub(super) const FILES: &[Group] = &[Group::FileServer];
const BOTH: &[Group] = &[Group::Vmm, Group::FileServer];

/// In each stage a filter refuses it, unless more is said.
pub(super) fn attack(
    name: &'static str,
    tries: &'static str,
    why: &'static str,
    run: fn(&World) -> Tried,
) -> Attack {
    let (bare, own) = (Vec::new(), Vec::new());
    Attack { name, tries, why, run, programs: BOTH, bare, own, alone: false }
}

fn errnos(errnos: &[i32]) -> Vec<End> {
    errnos.iter().map(|errno| End::Errno(*errno)).collect()
}

impl Attack {
    /// Without a filter it fails with one of these errors.
    pub(super) fn bare(mut self, all: &[i32]) -> Self {
        self.bare = errnos(all);
        self
    }

    /// Without a filter there is nothing to be had.
    pub(super) fn bare_nothing(mut self) -> Self {
        self.bare = vec![End::Nothing];
        self
    }

    /// In this program's place alone.
    pub(super) const fn only(mut self, programs: &'static [Group]) -> Self {
        self.programs = programs;
        self
    }

    /// Here it may be called, and fails with one of these errors.
    pub(super) fn at(mut self, group: Group, stage: Stage, all: &[i32]) -> Self {
        self.own.push((group, stage, errnos(all)));
        self
    }

    /// The file server may make this call, at each stage; it fails with one of these errors.
    pub(super) fn served(self, all: &[i32]) -> Self {
        self.at(Group::FileServer, Stage::Serving, all).at(Group::FileServer, Stage::Setup, all).at(
            Group::FileServer,
            Stage::Bare,
            all,
        )
    }

    /// Here it ends so.
    pub(super) fn ends(mut self, group: Group, stage: Stage, ends: &[End]) -> Self {
        self.own.push((group, stage, ends.to_vec()));
        self
    }

    /// It takes a process of its own.
    pub(super) const fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    fn expected(&self, group: Group, stage: Stage) -> Vec<End> {
        let own = self.own.iter().find(|(one, at, _)| *one == group && *at == stage);
        match (own, stage) {
            (Some((_, _, ends)), _) => ends.clone(),
            (None, Stage::Bare) => self.bare.clone(),
            (None, _) => vec![End::Trapped],
        }
    }

    /// The case in a program's place; nothing if it is not tried there.
    pub(super) fn case(&self, group: Group) -> Option<Case> {
        if !self.programs.contains(&group) {
            return None;
        }
        let expected = stages(group)
            .iter()
            .map(|stage| Expected { stage: *stage, ends: self.expected(group, *stage) });
        Some(Case {
            group,
            name: self.name.to_owned(),
            tries: self.tries.to_owned(),
            why: self.why.to_owned(),
            expected: expected.filter(|one| !one.ends.is_empty()).collect(),
            alone: self.alone,
            exits: Vec::new(),
            goes_on: false,
            shares: false,
        })
    }
}

/// The stages of a program.
pub(crate) const fn stages(group: Group) -> &'static [Stage] {
    match group {
        Group::FileServer => &[Stage::Serving, Stage::Setup, Stage::Bare],
        _ => &[Stage::Loop, Stage::Vcpu, Stage::Setup, Stage::Bare],
    }
}
