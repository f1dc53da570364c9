//! Visits every state of a model, breadth first, and looks for a state that breaks a property.
//!
//! The crate `stateright` does not fit: the models need "from every state, every run of these
//! steps ends in such a state" to find a wait without an end. The documentation of its property
//! `eventually` says that runs that join or repeat are not checked.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

/// A protocol with its environment.
pub trait Model {
    /// Everything that a step can depend on.
    type State: Clone + Eq + Hash + fmt::Debug;

    /// The state before the first step.
    fn initial(&self) -> Self::State;

    /// Every step that can happen next, with the state that follows.
    fn steps(&self, state: &Self::State) -> Vec<(Step, Self::State)>;

    /// The rule that this state breaks, if any.
    fn fault(&self, state: &Self::State) -> Option<&'static str>;

    /// What must happen sooner or later.
    fn inevitable(&self) -> Vec<Inevitable<Self::State>>;
}

/// One step of a model.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// The process or thread that takes the step.
    pub actor: &'static str,
    /// The name of the step in the text of the protocol.
    pub name: &'static str,
    /// Whether a property may rely on the step.
    pub kind: Kind,
}

/// The steps that can happen in one state, each with the state that follows.
#[derive(Debug)]
pub struct Steps<S>(pub Vec<(Step, S)>);

impl<S> Default for Steps<S> {
    fn default() -> Self {
        Steps(Vec::new())
    }
}

impl<S: Clone> Steps<S> {
    /// Adds the step that changes `state` by `change`.
    pub fn add(
        &mut self,
        state: &S,
        actor: &'static str,
        name: &'static str,
        kind: Kind,
        change: impl FnOnce(&mut S),
    ) {
        let mut next = state.clone();
        change(&mut next);
        self.0.push((Step { actor, name, kind }, next));
    }
}

/// What a property may rely on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Happens sooner or later.
    Fair,
    /// The end of a short wait, of a second or less.
    Patience,
    /// The end of a wait of several seconds.
    Slow,
    /// May happen and may not: a failure, or a choice of the environment.
    Chance,
}

/// From every state, every run of the `relied_on` steps must come to a `goal`.
#[derive(Debug)]
pub struct Inevitable<S> {
    /// The property in words.
    pub name: &'static str,
    /// The steps that happen. All other steps may never happen.
    pub relied_on: fn(&Step) -> bool,
    /// The states at which a run may end.
    pub goal: fn(&S) -> bool,
}

/// The result of a search that broke no property.
#[derive(Debug, Clone, Copy)]
pub struct Explored {
    /// The number of different states.
    pub states: usize,
    /// The number of steps between two states.
    pub steps: usize,
    /// The number of steps to the farthest state.
    pub depth: u32,
}

impl fmt::Display for Explored {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Explored { states, steps, depth } = self;
        write!(f, "{states} states, {steps} steps, depth {depth}; every property holds")
    }
}

/// A run that breaks a property.
#[derive(Debug)]
pub struct Counterexample<S> {
    /// The property.
    pub property: &'static str,
    /// The steps from the first state.
    pub steps: Vec<Step>,
    /// The state after these steps.
    pub last: S,
}

impl<S: fmt::Debug> fmt::Display for Counterexample<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "broken: {}", self.property)?;
        for (number, step) in self.steps.iter().enumerate() {
            writeln!(f, "{:4}. {:<10} {}", number + 1, step.actor, step.name)?;
        }
        write!(f, "then the state is {:#?}", self.last)
    }
}

/// Visits all states. Returns the shortest run that leads to a fault, or else a run after which
/// something inevitable does not happen.
///
/// # Panics
/// If there are more than `limit` states.
pub fn explore<M: Model>(
    model: &M,
    limit: usize,
) -> Result<Explored, Box<Counterexample<M::State>>> {
    let mut graph = Graph::new(model.initial());
    let mut at = 0;
    while at < graph.states.len() {
        if let Some(property) = model.fault(&graph.states[at]) {
            return Err(Box::new(graph.counterexample(property, at as u32, &[])));
        }
        for (step, state) in model.steps(&graph.states[at].clone()) {
            graph.add(at as u32, step, state);
        }
        graph.edge_starts.push(graph.edges.len());
        assert!(graph.states.len() <= limit, "more than {limit} states; use smaller bounds");
        at += 1;
    }
    for property in model.inevitable() {
        if let Some((at, rest)) = graph.avoids(&property) {
            return Err(Box::new(graph.counterexample(property.name, at, &rest)));
        }
    }
    let depth = graph.depths.iter().copied().max().unwrap_or_default();
    Ok(Explored { states: graph.states.len(), steps: graph.edges.len(), depth })
}

struct Graph<S> {
    states: Vec<S>,
    /// The number of each state by its hash. If two states have the same hash, the second one is
    /// entered under the next free number.
    numbers: HashMap<u64, u32>,
    parents: Vec<Option<(u32, Step)>>,
    depths: Vec<u32>,
    edges: Vec<(u32, Step)>,
    /// Where the edges of each state start in `edges`.
    edge_starts: Vec<usize>,
}

impl<S: Clone + Eq + Hash> Graph<S> {
    fn new(initial: S) -> Graph<S> {
        let numbers = HashMap::from([(hash(&initial), 0)]);
        Graph {
            states: vec![initial],
            numbers,
            parents: vec![None],
            depths: vec![0],
            edges: Vec::new(),
            edge_starts: vec![0],
        }
    }

    fn add(&mut self, from: u32, step: Step, state: S) {
        let mut key = hash(&state);
        let to = loop {
            match self.numbers.entry(key) {
                Entry::Occupied(known) if self.states[*known.get() as usize] == state => {
                    break *known.get();
                }
                Entry::Occupied(_) => key = key.wrapping_add(1),
                Entry::Vacant(free) => {
                    let number = self.states.len() as u32;
                    free.insert(number);
                    self.states.push(state);
                    self.parents.push(Some((from, step)));
                    self.depths.push(self.depths[from as usize] + 1);
                    break number;
                }
            }
        };
        // A step that changes nothing is no progress.
        if to != from {
            self.edges.push((to, step));
        }
    }

    fn edges_of(&self, state: u32) -> &[(u32, Step)] {
        &self.edges[self.edge_starts[state as usize]..self.edge_starts[state as usize + 1]]
    }

    /// A state from which some run never comes to a goal, and that run until it ends or repeats.
    fn avoids(&self, property: &Inevitable<S>) -> Option<(u32, Vec<(u32, Step)>)> {
        let relied_on = |edge: &&(u32, Step)| (property.relied_on)(&edge.1);
        // `open` counts for each state the steps whose next state may still avoid the goal.
        let mut open = vec![0_u32; self.states.len()];
        let mut sources: Vec<Vec<u32>> = vec![Vec::new(); self.states.len()];
        let mut reaching = Vec::new();
        for state in 0..self.states.len() as u32 {
            if (property.goal)(&self.states[state as usize]) {
                reaching.push(state);
                continue;
            }
            for (to, _) in self.edges_of(state).iter().filter(relied_on) {
                open[state as usize] += 1;
                sources[*to as usize].push(state);
            }
        }
        let mut reaches = vec![false; self.states.len()];
        reaching.iter().for_each(|state| reaches[*state as usize] = true);
        while let Some(state) = reaching.pop() {
            for source in std::mem::take(&mut sources[state as usize]) {
                open[source as usize] -= 1;
                if open[source as usize] == 0 {
                    reaches[source as usize] = true;
                    reaching.push(source);
                }
            }
        }
        let start = reaches.iter().position(|reaches| !reaches)? as u32;
        let (mut at, mut rest, mut seen) = (start, Vec::new(), vec![start]);
        while let Some(edge) =
            self.edges_of(at).iter().filter(relied_on).find(|edge| !reaches[edge.0 as usize])
        {
            rest.push(*edge);
            at = edge.0;
            if seen.contains(&at) {
                break;
            }
            seen.push(at);
        }
        Some((start, rest))
    }

    fn counterexample(
        &self,
        property: &'static str,
        state: u32,
        rest: &[(u32, Step)],
    ) -> Counterexample<S> {
        let (mut steps, mut at) = (Vec::new(), state);
        while let Some((parent, step)) = self.parents[at as usize] {
            steps.push(step);
            at = parent;
        }
        steps.reverse();
        steps.extend(rest.iter().map(|(_, step)| *step));
        let last = rest.last().map_or(state, |(last, _)| *last);
        Counterexample { property, steps, last: self.states[last as usize].clone() }
    }
}

fn hash(state: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    hasher.finish()
}
