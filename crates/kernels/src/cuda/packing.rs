//! What is done to each image of a batch, as the kernels read it.

use super::failure::{CudaError, Result};
use crate::ImagePlan;

/// Ints of one plan on the device; as `ImagePlan` in `images.cuh`.
pub const PLAN_LEN: usize = 8;

/// What plans may refer to.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct PlanLimits {
    /// Images on the device.
    pub images: usize,
    /// Their height and width.
    pub size: (usize, usize),
    /// Classes of the network.
    pub classes: usize,
    /// Triggers on the device.
    pub triggers: usize,
    /// Their height and width.
    pub trigger_size: (usize, usize),
}

impl ImagePlan {
    fn check(&self, limits: &PlanLimits) -> Result<()> {
        let below = |what, value: usize, limit: usize| {
            if value < limit {
                return Ok(());
            }
            Err(CudaError::argument(what, value, format!("below {limit}")))
        };
        below("an image's index", self.image, limits.images)?;
        below("a label", self.label, limits.classes)?;
        let (rows, columns) = limits.size;
        // A shift beyond the image shows nothing of it; far beyond, indices would overflow.
        let within = |shift: i32, side: usize| shift.unsigned_abs() as usize <= side;
        if !within(self.shift.0, rows) || !within(self.shift.1, columns) {
            return Err(CudaError::argument(
                "a crop's shift",
                format!("{:?}", self.shift),
                format!("at most {rows} rows and {columns} columns"),
            ));
        }
        let Some(stamp) = self.stamp else {
            return Ok(());
        };
        below("a trigger's index", stamp.trigger, limits.triggers)?;
        let fits = stamp.row + limits.trigger_size.0 <= limits.size.0
            && stamp.column + limits.trigger_size.1 <= limits.size.1;
        if fits {
            return Ok(());
        }
        Err(CudaError::argument(
            "a trigger's place",
            format!("({}, {})", stamp.row, stamp.column),
            format!(
                "one where {}x{} pixels fit into {}x{}",
                limits.trigger_size.0, limits.trigger_size.1, limits.size.0, limits.size.1
            ),
        ))
    }

    /// The order of `ImagePlan` in `images.cuh`.
    fn pack(&self) -> [i32; PLAN_LEN] {
        // `check` has compared every index with a count that fits into an int.
        let int = |value: usize| value as i32;
        let (trigger, row, column) = self.stamp.map_or((-1, 0, 0), |stamp| {
            (int(stamp.trigger), int(stamp.row), int(stamp.column))
        });
        [
            int(self.image),
            self.shift.0,
            self.shift.1,
            i32::from(self.mirrored),
            trigger,
            row,
            column,
            int(self.label),
        ]
    }
}

/// Plans as the kernels read them, [`PLAN_LEN`] ints for each image.
///
/// # Errors
///
/// [`CudaError::Argument`] for the first plan that refers to what is not there.
pub fn pack_plans(plans: &[ImagePlan], limits: &PlanLimits) -> Result<Vec<i32>> {
    let counts = [limits.images, limits.classes, limits.triggers];
    for count in counts {
        super::launch::index(count)?;
    }
    let mut packed = Vec::with_capacity(plans.len() * PLAN_LEN);
    for plan in plans {
        plan.check(limits)?;
        packed.extend(plan.pack());
    }
    Ok(packed)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Stamp;

    const LIMITS: PlanLimits = PlanLimits {
        images: 100,
        size: (32, 32),
        classes: 10,
        triggers: 2,
        trigger_size: (3, 4),
    };

    fn stamped(trigger: usize, row: usize, column: usize) -> ImagePlan {
        ImagePlan {
            stamp: Some(Stamp {
                trigger,
                row,
                column,
            }),
            ..ImagePlan::plain(99, 9)
        }
    }

    #[test]
    fn a_plan_is_packed_in_the_kernels_order() {
        let plan = ImagePlan {
            shift: (-4, 3),
            mirrored: true,
            ..stamped(1, 29, 28)
        };
        let packed = pack_plans(&[plan, ImagePlan::plain(7, 2)], &LIMITS).unwrap();
        assert_eq!(
            packed,
            [99, -4, 3, 1, 1, 29, 28, 9, 7, 0, 0, 0, -1, 0, 0, 2]
        );
    }

    #[test]
    fn nothing_outside_of_a_buffer_is_referred_to() {
        let beyond = [
            ImagePlan::plain(100, 0),
            ImagePlan::plain(0, 10),
            stamped(2, 0, 0),
            stamped(0, 30, 0),
            stamped(0, 0, 29),
            ImagePlan {
                shift: (33, 0),
                ..ImagePlan::plain(0, 0)
            },
            ImagePlan {
                shift: (0, -33),
                ..ImagePlan::plain(0, 0)
            },
            ImagePlan {
                shift: (i32::MIN, 0),
                ..ImagePlan::plain(0, 0)
            },
        ];
        for plan in beyond {
            let refused = pack_plans(&[plan], &LIMITS);
            assert!(
                matches!(refused, Err(CudaError::Argument { .. })),
                "{plan:?}"
            );
        }
        pack_plans(&[stamped(1, 29, 28), ImagePlan::plain(99, 9)], &LIMITS).unwrap();
    }
}
