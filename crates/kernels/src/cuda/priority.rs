//! Which of several networks' kernels a GPU takes first, where a process trains several at once.
//!
//! A convolution's blocks take a multiprocessor's memory for copies, and most of what they do is
//! multiply; the small kernels between them wait for memory, and need little room. So small ones come
//! first, wherever their network is: they run beside other networks' convolutions, and the next
//! convolution of theirs is there sooner. Among convolutions networks have an order, as
//! many of them as the card tells apart: so they are not all at the same place of a step, or all between two
//! trainings.
//!
//! No result depends on any of this.

#[cfg(feature = "cuda")]
use std::sync::atomic::{AtomicI32, Ordering};

#[cfg(feature = "cuda")]
use cudarc::driver::{DriverError, result, sys};

/// Bytes of shared memory, as asked for at the launch, from which on its blocks are large.
#[cfg(feature = "cuda")]
const LARGE: u32 = 32 * 1024;

/// Priorities of the launches of one opening of a GPU; the lowest number comes first.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Priorities {
    small: i32,
    large: i32,
}

impl Priorities {
    /// Those of the opening number `number`, where numbers from `greatest` to `least` tell launches
    /// apart.
    fn of(number: i32, (least, greatest): (i32, i32)) -> Self {
        let networks = (least - greatest).max(1);
        Self {
            small: greatest,
            large: least - (networks - 1) + number % networks,
        }
    }
}

#[cfg(feature = "cuda")]
impl Priorities {
    /// Those of the next opening of a GPU by this process. The context of one must be current.
    pub(crate) fn next() -> Result<Self, DriverError> {
        static OPENED: AtomicI32 = AtomicI32::new(0);
        let number = OPENED.fetch_add(1, Ordering::Relaxed) & i32::MAX;
        Ok(Self::of(number, result::stream::get_priority_range()?))
    }

    /// That of what is started launch by launch.
    pub(crate) fn of_stream(self) -> i32 {
        self.large
    }

    /// Gives each launch of a graph its own.
    ///
    /// # Safety
    ///
    /// The graph is alive, and nobody else uses it meanwhile.
    #[allow(unsafe_code)]
    pub(crate) unsafe fn give(self, graph: sys::CUgraph) -> Result<(), DriverError> {
        let mut count = 0;
        // SAFETY: the caller's promise; without a list only the number of nodes is asked for.
        unsafe { sys::cuGraphGetNodes(graph, std::ptr::null_mut(), &raw mut count) }.result()?;
        let mut nodes = vec![std::ptr::null_mut(); count];
        // SAFETY: there is room for `count` nodes.
        unsafe { sys::cuGraphGetNodes(graph, nodes.as_mut_ptr(), &raw mut count) }.result()?;
        for node in nodes {
            let mut kind = sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_EMPTY;
            // SAFETY: a node of a graph that is alive.
            unsafe { sys::cuGraphNodeGetType(node, &raw mut kind) }.result()?;
            if kind != sys::CUgraphNodeType::CU_GRAPH_NODE_TYPE_KERNEL {
                continue;
            }
            // SAFETY: the node is a kernel's. The driver fills in the parameters, for which zeros are
            // valid; the union is all priority for this attribute.
            unsafe {
                let mut launch: sys::CUDA_KERNEL_NODE_PARAMS = std::mem::zeroed();
                sys::cuGraphKernelNodeGetParams_v2(node, &raw mut launch).result()?;
                let mut value: sys::CUkernelNodeAttrValue = std::mem::zeroed();
                let is_large = launch.sharedMemBytes >= LARGE;
                value.priority = if is_large { self.large } else { self.small };
                let which = sys::CUlaunchAttributeID::CU_LAUNCH_ATTRIBUTE_PRIORITY;
                sys::cuGraphKernelNodeSetAttribute(node, which, &raw const value).result()?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn small_launches_of_every_network_come_before_large_ones() {
        let six = [0, 1, 2, 3, 4, 5].map(|number| Priorities::of(number, (0, -5)));
        assert_eq!(six.map(|own| own.large), [-4, -3, -2, -1, 0, -4]);
        assert_eq!(six.map(|own| own.small), [-5; 6]);
    }

    #[test]
    fn cards_that_tell_few_apart_get_what_they_know() {
        for range in [(0, 0), (0, -1), (0, -2)] {
            for number in 0..4 {
                let own = Priorities::of(number, range);
                for priority in [own.small, own.large] {
                    assert!(priority <= range.0 && priority >= range.1, "{range:?}");
                }
            }
        }
        let two = Priorities::of(0, (0, -1));
        assert!(two.small < two.large);
    }
}
