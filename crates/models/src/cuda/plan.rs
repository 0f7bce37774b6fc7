//! Where everything lies, decided once: parameters in one flat buffer, the gradients of nodes in
//! as few buffers as their lifetimes allow.

use mesa_kernels::ConvShape;
use mesa_kernels::cuda::{Place, padded};

use crate::graph::{Graph, Node};

/// Parameters start at multiples of this many values: 128 bytes of bf16, more than any load asks
/// for.
const ALIGNMENT: usize = 64;

/// What a parameter is, which decides how it is padded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// A convolution's weights; the shape without padding.
    Filter(ConvShape),
    /// A value for each of so many channels.
    Channels(usize),
    /// (class, channel).
    Linear(usize, usize),
    /// A value for each class.
    Classes(usize),
}

impl Kind {
    fn padded_len(&self) -> usize {
        match self {
            Self::Filter(shape) => {
                padded(shape.out_channels) * shape.taps() * padded(shape.in_channels)
            }
            Self::Channels(channels) => padded(*channels),
            Self::Linear(classes, channels) => classes * padded(*channels),
            Self::Classes(classes) => *classes,
        }
    }
}

/// A tensor's name, and its place in a flat buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) name: String,
    pub(crate) kind: Kind,
    pub(crate) place: Place,
}

/// Named tensors in one flat buffer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Directory {
    pub(crate) entries: Vec<Entry>,
    pub(crate) len: usize,
}

impl Directory {
    fn push(&mut self, name: String, kind: Kind) -> Place {
        let (offset, len) = (self.len, kind.padded_len());
        self.len = (offset + len).next_multiple_of(ALIGNMENT);
        let place = Place { offset, len };
        self.entries.push(Entry { name, kind, place });
        place
    }
}

/// Where a unit's backward pass puts a gradient.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    pub(crate) node: Node,
    /// Which buffer.
    pub(crate) slot: usize,
    /// Whether another unit has written there before.
    pub(crate) accumulate: bool,
    /// Whether no other unit does after: the gradient of a unit's output is then whole.
    pub(crate) completes: bool,
}

/// The backward pass of one unit.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct BackwardStep {
    pub(crate) unit: usize,
    /// The buffer that holds the gradient of the unit's output, and stays that of the residual if it is
    /// the residual's first.
    pub(crate) gradient: usize,
    /// The buffer that then holds the gradient of what batch norm takes: the same if no residual stays
    /// there. If the unit has a skip, it stays that of the skip.
    pub(crate) own: usize,
    /// The buffer that holds what has reached the unit's sum as a skip.
    pub(crate) of_skip: Option<usize>,
    pub(crate) residual: Option<Target>,
    pub(crate) input: Option<Target>,
}

/// The order of a backward pass, and its buffers.
#[derive(Clone, Debug, Default)]
pub(crate) struct Backward {
    pub(crate) steps: Vec<BackwardStep>,
    /// Values of each buffer, for one image.
    pub(crate) slots: Vec<usize>,
}

/// A network's plan.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// Height, width and padded channels of every node.
    pub(crate) nodes: Vec<(usize, usize, usize)>,
    /// Learned tensors: those of convolutions come first.
    pub(crate) parameters: Directory,
    /// How many values of theirs those are.
    pub(crate) filter_values: usize,
    /// How many values the weights of units have that learn none; they lie in a buffer of their own.
    pub(crate) selected_values: usize,
    /// Running statistics: two for each unit that has batch norm.
    pub(crate) running: Directory,
    /// Places of each unit's tensors.
    units: Vec<UnitPlaces>,
}

/// Where a unit's tensors lie.
#[derive(Copy, Clone, Debug)]
pub(crate) struct UnitPlaces {
    /// Among the learned tensors, or those of units that learn none.
    pub(crate) filter: Place,
    pub(crate) norm: Option<NormPlaces>,
}

/// Where a unit's batch norm lies: learned tensors, running statistics.
#[derive(Copy, Clone, Debug)]
pub(crate) struct NormPlaces {
    pub(crate) gamma: Place,
    pub(crate) beta: Place,
    pub(crate) mean: Place,
    pub(crate) variance: Place,
}

impl Plan {
    pub(crate) fn new(graph: &Graph) -> Self {
        let nodes = graph.layouts().into_iter().map(|layout| {
            let channels = padded(layout.channels);
            (layout.height, layout.width, channels)
        });
        let nodes = nodes.collect();
        let (mut parameters, mut running) = (Directory::default(), Directory::default());
        let mut selected = Directory::default();
        let filters = graph.units.iter().map(|unit| {
            let directory = if unit.learned {
                &mut parameters
            } else {
                &mut selected
            };
            directory.push(unit.filter_name(), Kind::Filter(unit.shape))
        });
        let filters: Vec<Place> = filters.collect();
        let filter_values = parameters.len;
        let units = graph.units.iter().zip(filters).map(|(unit, filter)| {
            let norm = unit.norm.as_ref().map(|norm| {
                let push = |directory: &mut Directory, name: &str| {
                    let kind = Kind::Channels(unit.shape.out_channels);
                    directory.push(format!("{norm}.{name}"), kind)
                };
                NormPlaces {
                    gamma: push(&mut parameters, "weight"),
                    beta: push(&mut parameters, "bias"),
                    mean: push(&mut running, "running_mean"),
                    variance: push(&mut running, "running_var"),
                }
            });
            UnitPlaces { filter, norm }
        });
        let units = units.collect();
        let (classes, features) = (graph.num_classes, graph.features());
        let [weight, bias] = graph.head_names();
        parameters.push(weight, Kind::Linear(classes, features));
        parameters.push(bias, Kind::Classes(classes));
        Self {
            nodes,
            parameters,
            filter_values,
            selected_values: selected.len,
            running,
            units,
        }
    }

    /// Places of a unit's tensors.
    pub(crate) fn unit(&self, unit: usize) -> UnitPlaces {
        self.units[unit]
    }

    /// Places of the linear layer's weights and bias.
    pub(crate) fn linear(&self) -> [Place; 2] {
        let first = self.parameters.entries.len() - 2;
        [0, 1].map(|part| self.parameters.entries[first + part].place)
    }

    /// The backward pass: units in reverse order, down to the result of the first convolution, whose
    /// gradient is in the last step's `own` buffer; nobody asks for that of the images. The first to reach a
    /// node writes its gradient, or leaves it where it is for a residual; the others add to it. Once a unit
    /// has passed its output's gradient on, that buffer is free for another node of the same size, unless a
    /// skip takes it as it is.
    pub(crate) fn backward(&self, graph: &Graph) -> Backward {
        let mut plan = Backward::default();
        let mut free: Vec<usize> = Vec::new();
        let mut of_node: Vec<Option<usize>> = vec![None; self.nodes.len()];
        let mut of_skips: Vec<Option<usize>> = vec![None; graph.units.len()];
        // How many units read each node; the head reads the last.
        let mut waiting = vec![0_usize; self.nodes.len()];
        waiting[graph.units.len()] = 1;
        for unit in &graph.units {
            waiting[unit.input] += 1;
            if let Some(node) = unit.residual {
                waiting[node] += 1;
            }
        }
        let mut reach = |plan: &mut Backward,
                         free: &mut Vec<usize>,
                         of_node: &mut [Option<usize>],
                         node: Node,
                         there: Option<usize>| {
            if node == 0 {
                return None;
            }
            let accumulate = of_node[node].is_some();
            let slot = of_node[node].or(there).unwrap_or_else(|| {
                let (height, width, channels) = self.nodes[node];
                take(&mut plan.slots, free, height * width * channels)
            });
            of_node[node] = Some(slot);
            waiting[node] -= 1;
            Some(Target {
                node,
                slot,
                accumulate,
                completes: waiting[node] == 0,
            })
        };
        let last = graph.units.len();
        reach(&mut plan, &mut free, &mut of_node, last, None);
        for (unit, spec) in graph.units.iter().enumerate().rev() {
            let Some(gradient) = of_node[unit + 1].take() else {
                continue;
            };
            let residual = spec
                .residual
                .and_then(|node| reach(&mut plan, &mut free, &mut of_node, node, Some(gradient)));
            let own = match residual {
                Some(Target { slot, .. }) if slot == gradient => {
                    let len = plan.slots[gradient];
                    take(&mut plan.slots, &mut free, len)
                }
                _ => gradient,
            };
            let input = reach(&mut plan, &mut free, &mut of_node, spec.input, None);
            let of_skip = of_skips[unit].take();
            plan.steps.push(BackwardStep {
                unit,
                gradient,
                own,
                of_skip,
                residual,
                input,
            });
            free.extend(of_skip);
            match spec.skip {
                None => free.push(own),
                // Where there is no batch norm, a sum is the output.
                Some(skip) if graph.units[skip].norm.is_none() => {
                    of_node[skip + 1] = Some(own);
                }
                Some(skip) => of_skips[skip] = Some(own),
            }
        }
        plan
    }
}

/// A free buffer of `len` values, or a new one.
fn take(slots: &mut Vec<usize>, free: &mut Vec<usize>, len: usize) -> usize {
    if let Some(at) = free.iter().position(|slot| slots[*slot] == len) {
        return free.swap_remove(at);
    }
    slots.push(len);
    slots.len() - 1
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Architecture, ResNetConfig};

    fn graph(width: usize) -> Graph {
        let config = ResNetConfig::resnet18(width, 10);
        config.graph()
    }

    #[test]
    fn parameters_do_not_overlap_and_start_aligned() {
        let plan = Plan::new(&graph(5));
        for directory in [&plan.parameters, &plan.running] {
            let mut end = 0;
            for entry in &directory.entries {
                assert!(entry.place.offset >= end, "{}", entry.name);
                assert!(
                    entry.place.offset.is_multiple_of(ALIGNMENT),
                    "{}",
                    entry.name
                );
                end = entry.place.offset + entry.place.len;
            }
            assert!(directory.len >= end);
        }
        assert_eq!(plan.parameters.entries.len(), 3 * 20 + 2);
        for kind in Architecture::all() {
            let plan = Plan::new(&ResNetConfig::new(kind, 4, 10).graph());
            for entry in &plan.parameters.entries {
                let is_filter = matches!(entry.kind, Kind::Filter(_));
                let comes_first = entry.place.offset < plan.filter_values;
                assert_eq!(is_filter, comes_first, "{kind:?}: {}", entry.name);
            }
        }
        assert_eq!(plan.unit(0).filter.len, 8 * 9 * 8);
        assert_eq!(plan.linear()[0].len, 10 * 40);
        assert_eq!(plan.linear()[1].len, 10);
    }

    #[test]
    fn places_are_those_of_their_names() {
        let graph = graph(8);
        let plan = Plan::new(&graph);
        let place = |directory: &Directory, name: &str| {
            let entry = directory.entries.iter().find(|entry| entry.name == name);
            entry.unwrap().place
        };
        let last = graph.units.len() - 1;
        let of = |name| place(&plan.parameters, name);
        let first = plan.unit(0);
        let norm = first.norm.unwrap();
        assert_eq!(
            [first.filter, norm.gamma, norm.beta],
            ["conv1.weight", "bn1.weight", "bn1.bias"].map(of)
        );
        assert_eq!(plan.unit(last).filter, of("layer4.1.conv2.weight"));
        assert_eq!(plan.linear(), ["linear.weight", "linear.bias"].map(of));
        let of = |name| place(&plan.running, name);
        let norm = plan.unit(last).norm.unwrap();
        let names = ["layer4.1.bn2.running_mean", "layer4.1.bn2.running_var"];
        assert_eq!([norm.mean, norm.variance], names.map(of));
    }

    /// Walks a plan with a name in every buffer, as the device walks it with numbers.
    fn walk(graph: &Graph, plan: &Plan, backward: &Backward) {
        let mut held: Vec<Option<Node>> = vec![None; backward.slots.len()];
        let size = |node: Node| {
            let (height, width, channels) = plan.nodes[node];
            height * width * channels
        };
        // How many units each node's gradient still waits for.
        let mut waiting: Vec<usize> = (0..plan.nodes.len())
            .map(|node| {
                let reads = |unit: &&crate::graph::UnitSpec| {
                    usize::from(unit.input == node) + usize::from(unit.residual == Some(node))
                };
                graph.units.iter().map(|unit| reads(&unit)).sum()
            })
            .collect();
        let mut of_skips: Vec<Option<usize>> = vec![None; graph.units.len()];
        held[backward.steps[0].gradient] = Some(graph.units.len());
        for step in &backward.steps {
            assert_eq!(held[step.gradient], Some(step.unit + 1));
            assert_eq!(
                waiting[step.unit + 1],
                0,
                "a gradient is used before it is complete"
            );
            assert_eq!(backward.slots[step.gradient], size(step.unit + 1));
            let skipped = of_skips[step.unit].take();
            assert_eq!(step.of_skip, skipped, "what a skip has brought is added");
            if let Some(slot) = step.of_skip {
                assert_eq!(held[slot], Some(step.unit + 1));
            }
            let first = step.residual.filter(|target| !target.accumulate);
            if first.is_some() {
                assert_eq!(held[step.own], None, "a buffer is overwritten");
                assert_eq!(backward.slots[step.own], size(step.unit + 1));
                held[step.own] = Some(step.unit + 1);
            }
            assert_eq!(step.own == step.gradient, first.is_none());
            for target in step.residual.into_iter().chain(step.input) {
                let stays = Some(target) == first;
                assert_eq!(target.slot == step.gradient, stays);
                assert_ne!(target.slot, step.own);
                assert_ne!(Some(target.slot), step.of_skip);
                assert_eq!(backward.slots[target.slot], size(target.node));
                let last = waiting[target.node] == 1;
                assert_eq!(target.completes, last, "whether a gradient is whole");
                if target.accumulate {
                    assert_eq!(held[target.slot], Some(target.node));
                } else {
                    let other = held[target.slot].filter(|node| *node != step.unit + 1);
                    assert_eq!(other, None, "a buffer is overwritten that is still needed");
                }
                held[target.slot] = Some(target.node);
                waiting[target.node] -= 1;
            }
            held[step.own] = None;
            if let Some(skip) = graph.units[step.unit].skip {
                // It stays where it is, for the sum that the skip came from.
                held[step.own] = Some(skip + 1);
                if graph.units[skip].norm.is_some() {
                    of_skips[skip] = Some(step.own);
                }
            }
            if let Some(slot) = step.of_skip {
                held[slot] = None;
            }
        }
        assert!(held.iter().all(Option::is_none));
        let last = backward.steps.last().unwrap();
        assert_eq!((last.unit, graph.units[0].input), (0, 0));
    }

    #[test]
    fn no_gradient_is_overwritten_before_it_is_used() {
        let others = Architecture::all().map(|kind| ResNetConfig::new(kind, 4, 10).graph());
        for graph in [graph(64)].into_iter().chain(others) {
            let plan = Plan::new(&graph);
            let backward = plan.backward(&graph);
            assert_eq!(backward.steps.len(), graph.units.len());
            walk(&graph, &plan, &backward);
            let of_images = graph.units.iter().filter(|unit| unit.input == 0);
            assert_eq!(
                of_images.count(),
                1,
                "the first unit alone reads the images"
            );
        }
    }

    #[test]
    fn buffers_are_used_again() {
        let graph = graph(64);
        let plan = Plan::new(&graph);
        let backward = plan.backward(&graph);
        // Three of each of four stages' sizes at most, for 20 gradients.
        assert!(backward.slots.len() <= 12, "{:?}", backward.slots);
    }

    #[test]
    fn two_branches_meet_in_one_buffer() {
        let graph = graph(8);
        let backward = Plan::new(&graph).backward(&graph);
        // The first unit's output is read by a convolution and as a residual.
        let targets = backward.steps.iter().flat_map(|step| {
            let targets = step.residual.into_iter().chain(step.input);
            targets.filter(|target| target.node == 1)
        });
        let targets: Vec<Target> = targets.collect();
        assert_eq!(targets.len(), 2);
        assert_eq!(targets[0].slot, targets[1].slot);
        assert!(!targets[0].accumulate && targets[1].accumulate);
    }
}
